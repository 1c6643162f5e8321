package smc

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOperationsAreTheVendors holds every declaration against the parameters the vendor's own tools know.
func TestOperationsAreTheVendors(t *testing.T) {
	file, err := os.Open("testdata/operations.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	want := map[string][]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if op, parameter, ok := strings.Cut(lines.Text(), " "); ok && op != "#" {
			want[op] = append(want[op], parameter)
		}
	}
	if len(want) != 24 {
		t.Fatalf("testdata names %d operations, want 24", len(want))
	}

	// Sent as texts by the vendor's tools though they hold numbers, and parameters of ours.
	sentAsText := map[string]string{"Count": "Integer", "TimeToLiveInDays": "Integer"}
	ours := map[string][]string{"ListAccessTokens": {"PageNumber Integer", "PageSize Integer"}}

	got := map[string][]string{}
	for _, op := range Operations() {
		if op.Extension() {
			continue
		}
		required := map[string]bool{}
		for _, p := range op.Parameters() {
			top, _, nested := strings.Cut(p.Name, ".")
			if p.Required && (!nested || strings.HasSuffix(p.Name, ".N")) && !required[top] {
				required[top] = true
				got[op.Name()] = append(got[op.Name()], top+" required")
			}
			typ := p.Type
			if typ == "Time" || sentAsText[p.Name] == typ {
				typ = "String"
			}
			if line := p.Name + " " + typ; !slices.Contains(ours[op.Name()], line) {
				got[op.Name()] = append(got[op.Name()], line)
			}
		}
	}
	got["TagResources"] = append(got["TagResources"], "Tag required") // of structures, so of no scalar parameter
	for _, lists := range []map[string][]string{want, got} {
		for name := range lists {
			slices.Sort(lists[name])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("declarations differ from the vendor's (-vendor +declared):\n%s", diff)
	}
}

func TestExtensionsAreMarked(t *testing.T) {
	var got []string
	for _, op := range Operations() {
		if op.Extension() {
			got = append(got, op.Name())
		}
	}
	want := []string{
		"CreateAccessKey", "DeleteImage", "DeleteTargetInstance", "DescribeAuditLog", "DescribeImages", "DescribeReplicationJobDetails", "DescribeTargetInstances",
		"DisableAccessKey", "GetImageTicket", "ListAccessKeys", "RunReplicationJob",
	}
	if !slices.Equal(got, want) {
		t.Errorf("extensions: got %v, want %v", got, want)
	}
}

func TestLookupOperation(t *testing.T) {
	op, err := LookupOperation("StopReplicationJob")
	if err != nil || op.Name() != "StopReplicationJob" || op.ReadOnly() {
		t.Errorf("got %v, %v", op, err)
	}
	for name, code := range map[string]string{
		"":                   "MissingAction",
		"stopReplicationJob": CodeInvalidActionNotFound,
		"DropTables":         CodeInvalidActionNotFound,
	} {
		if _, err := LookupOperation(name); CodeOf(err) != code {
			t.Errorf("%q: got %v, want %s", name, err, code)
		}
	}
}

func TestFingerprint(t *testing.T) {
	decode := func(query map[string]string) string {
		t.Helper()
		req, err := CreateReplicationJob.Decode(flat(query))
		if err != nil {
			t.Fatal(err)
		}
		return CreateReplicationJob.Fingerprint(req)
	}
	base := map[string]string{"RegionId": "r", "SourceId": "s-1", "RunOnce": "true", "ClientToken": "a"}
	same := decode(map[string]string{"RegionId": "r", "SourceId": "s-1", "RunOnce": "TRUE", "ClientToken": "b"})
	other := decode(map[string]string{"RegionId": "r", "SourceId": "s-1", "RunOnce": "false"})
	empty := decode(map[string]string{"RegionId": "r", "SourceId": "s-1", "RunOnce": "true", "ValidTime": ""})
	if decode(base) != same {
		t.Error("the same request under another token has another fingerprint")
	}
	if decode(base) == other {
		t.Error("another request has the same fingerprint")
	}
	if decode(base) == empty {
		t.Error("ValidTime sent empty has the fingerprint of ValidTime absent")
	}
}

func TestParameterWords(t *testing.T) {
	words := map[string]string{}
	for _, p := range CreateReplicationJob.Parameters() {
		words[p.Name] = p.Type + ": " + p.Limits
	}
	for name, want := range map[string]string{
		"SystemDiskSize":             "Integer: 20 to 2048",
		"NetMode":                    "Integer: 0 or 2",
		"ValidTime":                  "Time: a UTC time like 2006-01-02T15:04:05Z",
		"DataDisk.N.Part.N.Block":    "Boolean: ",
		"ReplicationParameters":      "String: at most 2048 characters",
		"Tag.N.Key":                  "String: a key that does not begin with aliyun, acs:, http:// or https://, at most 128 characters",
		"DataDisk.N.Part.N.Device":   "String: at most 64 characters",
		"SystemDiskPart.N.SizeBytes": "Long: at least 1",
	} {
		if words[name] != want {
			t.Errorf("%s: got %q, want %q", name, words[name], want)
		}
	}
}
