package smc

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// serveUnsigned reads, decodes and validates a call as an endpoint does, its signature aside, and answers it.
func serveUnsigned(w http.ResponseWriter, r *http.Request) {
	const requestID, hostID = "4C467B38-3910-447D-87BC-AC049166F216", "center"
	format := FormatJSON
	operation, err := func() (AnyOperation, error) {
		request, err := ReadRequest(w, r)
		if err != nil {
			return nil, err
		}
		if format, err = ParseFormat(request.Values.Get("Format")); err != nil {
			return nil, err
		}
		operation, err := request.Operation()
		if err != nil {
			return nil, err
		}
		decoded, err := operation.DecodeRequest(request.Values)
		if err != nil {
			return nil, err
		}
		return operation, operation.ValidateRequest(decoded, fixedNow)
	}()
	if err != nil {
		_ = WriteError(w, format, requestID, hostID, err)
		return
	}
	_ = WriteResult(w, format, operation.Name(), requestID, operation.NewResult())
}

// TestBadInput: whatever is sent, the answer is the result or one well-formed error with its code, in JSON and in XML.
func TestBadInput(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	type request struct{ method, query, contentType, body string }
	job := func(parameters string) request {
		return request{"GET", "Action=CreateReplicationJob&Version=" + Version + "&RegionId=r&SourceId=s&" + parameters, "", ""}
	}
	post := func(contentType, body string) request {
		return request{"POST", "Action=StartReplicationJob&Version=" + Version, contentType, body}
	}
	repeat := func(n int, pattern string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "&"+pattern, i+1)
		}
		return b.String()[1:]
	}
	chinese := func(n int) string { return "Name=" + url.QueryEscape(strings.Repeat("迁", n)) }
	invalid := CodeInvalidParameter
	for name, c := range map[string]struct {
		request request
		code    string // "" when accepted
	}{
		"the least": {job(""), ""},
		"a form":    {post(form, "JobId=j-1"), ""},

		"body of 1 MiB":               {post(form, "JobId=j-1&Unknown="+strings.Repeat("x", MaxBody-len("JobId=j-1&Unknown="))), ""},
		"body over 1 MiB":             {post(form, strings.Repeat("x", MaxBody+1)), invalid},
		"query over 1 MiB":            {job(strings.Repeat("x", MaxBody)), invalid},
		"10,000 parameters":           {job(repeat(10_000, "p%d=1")), invalid},
		"10,000 parameters in a form": {post(form, repeat(10_000, "p%d=1")), invalid},
		"10,000 entries of a list":    {job(repeat(10_000, "DataDisk.%d.Index=1")), invalid},
		"10,000 times one parameter":  {job(strings.Repeat("Name=ab&", 10_000)), invalid},

		"a method that is not served":   {request{"DELETE", "Action=StartReplicationJob", "", ""}, CodeUnsupportedHTTPMethod},
		"JSON":                          {post("application/json", `{"JobId":"j-1"}`), invalid},
		"multipart":                     {post("multipart/form-data; boundary=x", "--x--"), invalid},
		"no content type":               {post("", "JobId=j-1"), invalid},
		"a content type that is none":   {post("; ;", "JobId=j-1"), invalid},
		"UTF-16":                        {post(form, "J\x00o\x00b\x00I\x00d\x00=\x00j\x00"), "MissingJobId"},
		"an escape that is none":        {job("Name=%zz"), invalid},
		"an escape cut short":           {post(form, "JobId=%e"), invalid},
		"a semicolon":                   {post(form, "JobId=j;x=1"), invalid},
		"Latin-1":                       {job("Name=caf%E9"), invalid},
		"UTF-8 longer than it may be":   {job("Name=%C0%80ab"), invalid},
		"half of a surrogate pair":      {job("Name=%ED%A0%80ab"), invalid},
		"a name that is not UTF-8":      {job("DataDisk.%FF.Index=1"), invalid},
		"a NUL":                         {job("InstanceType=a%00b"), invalid},
		"a terminal's escape":           {job("InstanceType=%1b%5b2J"), invalid},
		"an unknown name, not UTF-8":    {job("%FF%FE=1"), ""},
		"a word for a number":           {job("SystemDiskSize=many"), invalid},
		"a fraction":                    {job("SystemDiskSize=40.0"), invalid},
		"an exponent":                   {job("SystemDiskSize=4e1"), invalid},
		"a number in hexadecimal":       {job("SystemDiskSize=0x28"), invalid},
		"a number in Arabic digits":     {job("SystemDiskSize=" + url.QueryEscape("٤٠")), invalid},
		"a number with blanks":          {job("SystemDiskSize=+40+"), invalid},
		"a number of 32 bits and more":  {job("Frequency=4294967298"), invalid},
		"a number of 64 bits and more":  {job("SystemDiskPart.1.Device=0_0&SystemDiskPart.1.SizeBytes=9223372036854775808"), invalid},
		"a number of 10,000 digits":     {job("Frequency=" + strings.Repeat("9", 10_000)), invalid},
		"a boolean that is none":        {job("RunOnce=yes"), invalid},
		"a boolean in any case":         {job("RunOnce=TRUE"), ""},
		"a time that is none":           {job("ScheduledStartTime=tomorrow"), invalid},
		"a time in another zone":        {job("ScheduledStartTime=2026-03-02T12:00:00%2B08:00"), invalid},
		"a list for a value":            {job("Name.1=ab"), invalid},
		"a value for a list":            {job("DataDisk=1"), invalid},
		"a value for a structure":       {job("DataDisk.1=1"), invalid},
		"a parameter twice":             {job("Name=ab&Name=ab"), invalid},
		"a required parameter twice":    {job("SourceId=s"), invalid},
		"in query and form":             {request{"POST", "Action=StartReplicationJob&Version=" + Version + "&JobId=j", form, "JobId=j"}, invalid},
		"the action twice":              {post(form, "JobId=j&Action=StartReplicationJob"), invalid},
		"the version twice":             {post(form, "JobId=j&Version="+Version), invalid},
		"a form of answer there is not": {job("Format=YAML"), invalid},
		"index 0":                       {job("DataDisk.0.Index=1"), invalid},
		"a negative index":              {job("DataDisk.-1.Index=1"), invalid},
		"a huge index":                  {job("DataDisk.2147483647.Index=1"), invalid},
		"an index over 64 bits":         {job("DataDisk.18446744073709551617.Index=1"), invalid},
		"an index in hexadecimal":       {job("DataDisk.0x1.Index=1"), invalid},
		"an index left out":             {job("DataDisk.1.Index=1&DataDisk.3.Index=3"), invalid},
		"1,000 levels":                  {job("DataDisk.1" + strings.Repeat(".Part.1", 1000) + "=1"), invalid},
		"an empty entry":                {job("DataDisk.1.Index=1&DataDisk.1.Part.1="), invalid},

		"name of 1":                 {job("Name=a"), invalid},
		"name of 2":                 {job("Name=ab"), ""},
		"name of 128":               {job("Name=" + strings.Repeat("a", 128)), ""},
		"name of 129":               {job("Name=" + strings.Repeat("a", 129)), invalid},
		"Chinese name of 1":         {job(chinese(1)), invalid},
		"Chinese name of 2":         {job(chinese(2)), ""},
		"Chinese name of 128":       {job(chinese(128)), ""},
		"Chinese name of 129":       {job(chinese(129)), invalid},
		"a name of other letters":   {job("Name=" + url.QueryEscape("имя")), invalid},
		"a name of 1,000,000":       {job("Name=" + strings.Repeat("a", 1_000_000)), invalid},
		"a name of markup":          {job("Name=" + url.QueryEscape("<b>&amp;]]>\"'")), invalid},
		"an action of markup":       {request{"GET", "Version=" + Version + "&Action=" + url.QueryEscape("<script>\x1b&]]>"), "", ""}, CodeInvalidActionNotFound},
		"an action of 1,000,000":    {request{"GET", "Version=" + Version + "&Action=" + strings.Repeat("a", 1_000_000), "", ""}, CodeInvalidActionNotFound},
		"an action in another case": {request{"GET", "Version=" + Version + "&Action=startReplicationJob", "", ""}, CodeInvalidActionNotFound},
		"nothing":                   {request{"GET", "", "", ""}, "MissingVersion"},
	} {
		for _, format := range []Format{FormatJSON, FormatXML} {
			t.Run(name+" "+string(format), func(t *testing.T) {
				query := c.request.query
				if format == FormatXML && !strings.Contains(query, "Format=") {
					query = "Format=XML&" + query
				}
				r := httptest.NewRequest(c.request.method, "/", strings.NewReader(c.request.body))
				r.URL.RawQuery = query
				if c.request.contentType != "" {
					r.Header.Set("Content-Type", c.request.contentType)
				}
				w := httptest.NewRecorder()
				serveUnsigned(w, r)
				checkAnswer(t, w, c.code)
			})
		}
	}
}

// checkAnswer holds an answer to its form, whichever that is.
func checkAnswer(t *testing.T, w *httptest.ResponseRecorder, code string) {
	t.Helper()
	var answer struct {
		XMLName   xml.Name `json:"-"`
		RequestID string   `json:"RequestId" xml:"RequestId"`
		HostID    string   `json:"HostId" xml:"HostId"`
		Code      string
		Message   string
	}
	read := json.Unmarshal
	if strings.Contains(w.Header().Get("Content-Type"), "xml") {
		read = xml.Unmarshal
	}
	if err := read(w.Body.Bytes(), &answer); err != nil || !utf8.Valid(w.Body.Bytes()) {
		t.Fatalf("not well-formed: %v: %.300s", err, w.Body)
	}
	status := http.StatusOK
	if code != "" {
		status = lookupCode(code).status
	}
	if answer.Code != code || w.Code != status || answer.RequestID == "" {
		t.Errorf("got %d %s, want %d %s: %.300s", w.Code, answer.Code, status, code, w.Body)
	}
	if code != "" && (answer.Message == "" || answer.HostID == "" || w.Body.Len() > 2*maxMessage) {
		t.Errorf("an error of %d bytes: %.300s", w.Body.Len(), w.Body)
	}
}

// TestBadInputTakesLittleMemory: the worst a request of allowed length can do stays within a small multiple of it.
func TestBadInputTakesLittleMemory(t *testing.T) {
	parts := 0
	var deep, short strings.Builder
	for parts < MaxParameters-10 {
		parts++
		deep.WriteString("&DataDisk." + strconv.Itoa(parts) + ".Part." + strconv.Itoa(parts) + ".a.b." + strings.Repeat("c", 200) + "=1")
	}
	for short.Len() < MaxBody-100 {
		short.WriteString("&Name=1")
	}
	for name, body := range map[string]string{
		"many names, deep":   deep.String()[1:],
		"one name, often":    short.String()[1:],
		"one long value":     "Name=" + strings.Repeat("%41", MaxBody/3-100),
		"one name with dots": "DataDisk" + strings.Repeat(".1", MaxBody/2-100) + "=1",
	} {
		r := httptest.NewRequest(http.MethodPost, "/?RegionId=r&SourceId=s&Action=CreateReplicationJob&Version="+Version, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w := httptest.NewRecorder()
		serveUnsigned(w, r)
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; taken > 48*MaxBody {
			t.Errorf("%s: %d MiB for a body of %d bytes", name, taken>>20, len(body))
		}
		checkAnswer(t, w, CodeInvalidParameter)
	}
}
