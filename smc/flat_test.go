package smc

import (
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover/drover/test/property"
)

func flat(query map[string]string) url.Values {
	values := url.Values{}
	for name, value := range query {
		values.Set(name, value)
	}
	return values
}

// TestFiltersWithoutAValue: a filter that is sent without a value is no condition, also as an entry of a list.
func TestFiltersWithoutAValue(t *testing.T) {
	jobs, err := DescribeReplicationJobs.Decode(flat(map[string]string{
		"JobId.1": "", "SourceId.1": "", "SourceId.2": "s-2", "SourceId.3": "", "SourceId.4": "s-4", "Tag.1.Key": "", "Tag.1.Value": "", "Tag.2.Key": "env", "Tag.2.Value": "",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := &DescribeReplicationJobsRequest{SourceID: []string{"s-2", "s-4"}, Tag: []TagFilter{{Key: new("env"), Value: new("")}}}
	if !reflect.DeepEqual(jobs, want) {
		t.Errorf("got %+v, want %+v", jobs, want)
	}
	if err := DescribeReplicationJobs.Validate(jobs, fixedNow); err != nil {
		t.Error(err)
	}
	// What is to be done to is not a condition.
	untag, err := UntagResources.Decode(flat(map[string]string{"ResourceType": "sourceserver", "ResourceId.1": "s-1", "TagKey.1": ""}))
	if err == nil {
		err = UntagResources.Validate(untag, fixedNow)
	}
	if CodeOf(err) != CodeInvalidParameter {
		t.Errorf("an empty key to take away: %v", err)
	}
	for _, name := range []string{"JobId.0", "JobId.2", "JobId.x", "JobId.51"} {
		if _, err := DescribeReplicationJobs.Decode(flat(map[string]string{name: ""})); CodeOf(err) != CodeInvalidParameter {
			t.Errorf("%s without a value: %v", name, err)
		}
	}
}

func TestDecode(t *testing.T) {
	got, err := CreateReplicationJob.Decode(flat(map[string]string{
		"Action": "CreateReplicationJob", "AccessKeyId": "x", "Nonsense.1.2": "passed over",
		"RegionId": "cn-hangzhou", "SourceId": "s-1", "SystemDiskSize": "80", "RunOnce": "False", "Frequency": "",
		"DataDisk.1.Index": "2", "DataDisk.1.Part.1.Device": "2_0", "DataDisk.1.Part.1.SizeBytes": "5334102016",
		"DataDisk.2.Index": "1", "DataDisk.2.Size": "40", "DataDisk.2.Part.1.Block": "false",
		"Tag.1.Key": "k", "Tag.1.Value": "", "VaildTime": "", "Disks.System.Size": "40", "Disks.Data.1.DiskId": "d",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := &CreateReplicationJobRequest{
		RegionID: "cn-hangzhou", SourceID: "s-1", SystemDiskSize: new(80), RunOnce: new(false), ValidTime: new(""),
		DataDisk: []DataDiskTarget{
			{Index: new(2), Part: []PartTarget{{Device: new("2_0"), SizeBytes: new(int64(5334102016))}}},
			{Index: new(1), Size: new(40), Part: []PartTarget{{Block: new(false)}}},
		},
		Tag:   []TagParameter{{Key: new("k"), Value: new("")}},
		Disks: &DiskLayout{System: &SystemDiskLayout{Size: new(40)}, Data: []DataDiskLayout{{DiskID: new("d")}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDecodeTellsAbsentFromEmpty(t *testing.T) {
	absent, err := CreateReplicationJob.Decode(flat(map[string]string{}))
	if err != nil || absent.ValidTime != nil {
		t.Errorf("absent: %v, %v", absent.ValidTime, err)
	}
	empty, err := CreateReplicationJob.Decode(flat(map[string]string{"ValidTime": ""}))
	if err != nil || empty.ValidTime == nil || *empty.ValidTime != "" {
		t.Errorf("empty: %v, %v", empty.ValidTime, err)
	}
	if got := CreateReplicationJob.Encode(empty); !got.Has("ValidTime") {
		t.Error("encoding loses the empty value")
	}
}

func TestDecodeRefuses(t *testing.T) {
	long := strings.Repeat("9", 10_000)
	for name, c := range map[string]struct {
		values url.Values
		says   string
	}{
		"not a number":        {url.Values{"SystemDiskSize": {"big"}}, `SystemDiskSize: "big" is not a whole number; allowed: 20 to 2048`},
		"a fraction":          {url.Values{"SystemDiskSize": {"20.5"}}, "SystemDiskSize"},
		"over 32 bits":        {url.Values{"Frequency": {"4294967297"}}, "Frequency"},
		"over 64 bits":        {url.Values{"SystemDiskPart.1.SizeBytes": {"9223372036854775808"}}, "SystemDiskPart.1.SizeBytes"},
		"a very long number":  {url.Values{"Frequency": {long}}, "Frequency"},
		"not a boolean":       {url.Values{"RunOnce": {"1"}}, `RunOnce: "1" is not allowed; it must be true or false`},
		"repeated":            {url.Values{"Name": {"aa", "bb"}}, "Name is given 2 times"},
		"no value at all":     {url.Values{"Name": {}}, "Name is given 0 times"},
		"index 0":             {url.Values{"DataDisk.0.Index": {"1"}}, "numbered from 1"},
		"negative index":      {url.Values{"DataDisk.-1.Index": {"1"}}, "numbered from 1"},
		"index with a zero":   {url.Values{"DataDisk.01.Index": {"1"}}, "numbered from 1"},
		"index with a plus":   {url.Values{"DataDisk.+1.Index": {"1"}}, "numbered from 1"},
		"huge index":          {url.Values{"DataDisk.2147483647.Index": {"1"}}, "at most 16"},
		"index over 64 bits":  {url.Values{"DataDisk." + long + ".Index": {"1"}}, "numbered from 1"},
		"index not a number":  {url.Values{"DataDisk.x.Index": {"1"}}, `"x" is not an index`},
		"empty index":         {url.Values{"DataDisk..Index": {"1"}}, "numbered from 1"},
		"one over the limit":  {url.Values{"DataDisk.17.Index": {"1"}}, "at most 16"},
		"a gap":               {url.Values{"DataDisk.1.Index": {"1"}, "DataDisk.3.Index": {"2"}}, "DataDisk.2 is missing"},
		"a list as a value":   {url.Values{"DataDisk": {"[]"}}, "is a list"},
		"a value as a list":   {url.Values{"Name.1": {"x"}}, "has no parts"},
		"a value with parts":  {url.Values{"Name": {"x"}, "Name.First": {"y"}}, "has no parts"},
		"an entry as a value": {url.Values{"DataDisk.1": {"40"}}, "has parts"},
		"a struct as a value": {url.Values{"Disks": {"{}"}}, "Disks has parts; give them as Disks.System"},
		"too deep":            {url.Values{"DataDisk.1.Part.1.a.b.c.d.e": {"x"}}, "nested too deep"},
		"both spellings":      {url.Values{"ValidTime": {""}, "VaildTime": {""}}, "are the same parameter"},
		"not UTF-8":           {url.Values{"Name": {"a\xff"}}, "not UTF-8"},
	} {
		_, err := CreateReplicationJob.Decode(c.values)
		if CodeOf(err) != CodeInvalidParameter || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %s saying %q", name, err, CodeInvalidParameter, c.says)
		}
		if err != nil && len(err.Error()) > 1024 {
			t.Errorf("%s: the message has %d bytes", name, len(err.Error()))
		}
	}
}

func TestDecodeBoundsTheNumberOfParameters(t *testing.T) {
	values := url.Values{}
	for i := range MaxParameters {
		values.Set("SourceId."+strconv.Itoa(i+1), "s")
	}
	values.Set("Name", "n")
	if _, err := DescribeReplicationJobs.Decode(values); CodeOf(err) != CodeInvalidParameter || !strings.Contains(err.Error(), "4001 parameters") {
		t.Errorf("got %v", err)
	}
}

func TestListLimitsHaveTheirCodes(t *testing.T) {
	for name, want := range map[string]string{
		"Tag.21.Key": CodeNumberExceedTags, "ResourceId.51": CodeNumberExceedResourceIDs, "ResourceId.0": CodeInvalidParameter,
	} {
		if _, err := TagResources.Decode(url.Values{name: {"x"}}); CodeOf(err) != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
}

// TestRoundTrip: whatever a request of any operation holds within its limits, it is the same after it was sent,
// and the limits hold.
func TestRoundTrip(t *testing.T) {
	for _, op := range Operations() {
		t.Run(op.Name(), func(t *testing.T) {
			s := schemaOf(reflect.TypeOf(op.NewRequest()).Elem())
			property.Check(t, func(t *rapid.T) {
				want := op.NewRequest()
				s.draw(t, reflect.ValueOf(want).Elem())
				if err := s.validate("", reflect.ValueOf(want).Elem()); err != nil {
					t.Fatalf("drawn within the limits, refused: %v", err)
				}
				values, err := op.EncodeRequest(want)
				if err != nil {
					t.Fatal(err)
				}
				sent, err := url.ParseQuery(values.Encode())
				if err != nil {
					t.Fatal(err)
				}
				got, err := op.DecodeRequest(sent)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("(-sent +received)\n%s", diff)
				}
			})
		})
	}
}

// draw fills a struct with values its tags allow.
func (s *schema) draw(t *rapid.T, into reflect.Value) {
	for _, f := range s.fields {
		if f.required || rapid.Bool().Draw(t, f.name+" given") {
			f.draw(t, into.Field(f.index))
		}
	}
	if into.IsZero() { // flat parameters cannot say "an entry without anything in it"
		s.fields[0].draw(t, into.Field(s.fields[0].index))
	}
}

func (f *field) draw(t *rapid.T, into reflect.Value) {
	switch f.kind {
	case kindList:
		n := rapid.IntRange(1, min(f.listMax, 3)).Draw(t, f.name+" entries")
		into.Set(reflect.MakeSlice(into.Type(), n, n))
		for i := range n {
			f.elem.draw(t, into.Index(i))
		}
		return
	case kindString:
		text := f.drawText(t)
		if !f.pointer && text == "" {
			text = "x"
		}
		f.allocate(into).SetString(text)
	case kindInt:
		least, most := f.min, f.max
		if f.bits == 32 {
			least, most = max(least, -1<<31), min(most, 1<<31-1)
		}
		value := rapid.Int64Range(least, most).Draw(t, f.name)
		if len(f.enum) > 0 {
			value, _ = strconv.ParseInt(rapid.SampledFrom(f.enum).Draw(t, f.name), 10, 64)
		}
		f.allocate(into).SetInt(value)
	case kindBool:
		f.allocate(into).SetBool(rapid.Bool().Draw(t, f.name))
	case kindStruct:
		f.sub.draw(t, f.allocate(into))
	}
}

func (f *field) drawText(t *rapid.T) string {
	patterns := map[string]string{
		"name":          `[A-Za-z迁移][A-Za-z0-9迁移任务:_-]{1,127}`,
		"workgroupname": `[A-Za-z][A-Za-z0-9:_.-]{1,63}`,
		"nourl":         `[ -~迁]{2,100}`,
		"ascii":         `[!-~]{1,64}`,
		"tagkey":        `[b-z][ -~迁]{0,100}`,
		"time":          `20[0-9][0-9]-0[1-9]-[12][0-9]T[01][0-9]:[0-5][0-9]:[0-5][0-9]Z`,
		"":              `[ -~迁]{1,64}`,
	}
	if len(f.enum) > 0 {
		return rapid.SampledFrom(f.enum).Draw(t, f.name)
	}
	return rapid.StringMatching(patterns[f.ruleName]).Filter(func(s string) bool {
		return f.rule == nil || f.rule.holds(s)
	}).Draw(t, f.name)
}
