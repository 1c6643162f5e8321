package smc

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWriteResult(t *testing.T) {
	result := &DescribeWorkgroupsResult{
		Page: Page{TotalCount: 1, PageNumber: 1, PageSize: 10},
		Workgroups: List[Workgroup]{{
			WorkgroupID: "w-1", Name: "a<b>", Status: WorkgroupInProgress,
			Warnings: List[Warning]{{WarningType: WarningUnRelated, SourceIDs: List[SourceRef]{"s-1", "s-2"}}},
		}},
	}
	for format, want := range map[Format]string{
		FormatJSON: `{"RequestId":"R-1","TotalCount":1,"PageNumber":1,"PageSize":10,"Workgroups":{"Workgroup":[` +
			`{"WorkgroupId":"w-1","Name":"a\u003cb\u003e","Description":"","Status":"InProgress","Tags":{"Tag":[]},` +
			`"Warnings":{"Warning":[{"WarningType":"UnRelated","SourceIds":{"SourceId":["s-1","s-2"]}}]}}]}}`,
		FormatXML: `<?xml version="1.0" encoding="UTF-8"?>` + "\n" +
			`<DescribeWorkgroupsResponse><RequestId>R-1</RequestId><TotalCount>1</TotalCount><PageNumber>1</PageNumber><PageSize>10</PageSize>` +
			`<Workgroups><Workgroup><WorkgroupId>w-1</WorkgroupId><Name>a&lt;b&gt;</Name><Description></Description><Status>InProgress</Status>` +
			`<Tags></Tags><Warnings><Warning><WarningType>UnRelated</WarningType><SourceIds><SourceId>s-1</SourceId><SourceId>s-2</SourceId>` +
			`</SourceIds></Warning></Warnings></Workgroup></Workgroups></DescribeWorkgroupsResponse>`,
	} {
		w := httptest.NewRecorder()
		if err := WriteResult(w, format, "DescribeWorkgroups", "R-1", result); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusOK {
			t.Errorf("%s: status %d", format, w.Code)
		}
		if diff := cmp.Diff(want, w.Body.String()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", format, diff)
		}
	}
}

func TestWriteError(t *testing.T) {
	for _, c := range []struct {
		format      Format
		err         error
		status      int
		contentType string
		body        string
	}{
		{
			FormatJSON, Errorf(CodeInvalidJobIDNotFound, "There is no job j-1"), 404, "application/json;charset=utf-8",
			`{"RequestId":"R","HostId":"h","Code":"InvalidJobId.NotFound","Message":"There is no job j-1"}`,
		},
		{
			FormatXML, Errorf(CodeForbiddenUnauthorized, "no"), 403, "text/xml;charset=utf-8",
			`<?xml version="1.0" encoding="UTF-8"?>` + "\n" +
				`<Error><RequestId>R</RequestId><HostId>h</HostId><Code>Forbidden.Unauthorized</Code><Message>no</Message></Error>`,
		},
		{
			FormatJSON, errors.New("dial tcp 10.0.0.1: refused"), 500, "application/json;charset=utf-8",
			`{"RequestId":"R","HostId":"h","Code":"InternalError","Message":"The request failed inside the center. Send it again; if it keeps failing, look up the request id in the log."}`,
		},
		{FormatJSON, &Error{Code: CodeThrottlingUser}, 400, "application/json;charset=utf-8", `{"RequestId":"R","HostId":"h","Code":"Throttling.User","Message":""}`},
	} {
		w := httptest.NewRecorder()
		if err := WriteError(w, c.format, "R", "h", c.err); err != nil {
			t.Fatal(err)
		}
		if w.Code != c.status || w.Header().Get("Content-Type") != c.contentType || w.Body.String() != c.body {
			t.Errorf("%v: got %d %s\n%s", c.err, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
	}
}

func TestParseFormat(t *testing.T) {
	for text, want := range map[string]Format{"": FormatJSON, "json": FormatJSON, "Xml": FormatXML} {
		if got, err := ParseFormat(text); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	if got, err := ParseFormat("YAML"); got != FormatJSON || CodeOf(err) != CodeInvalidParameter {
		t.Errorf("YAML: %s, %v", got, err)
	}
}

// TestListReadsBothForms: nested as the API answers, bare as the newest of the vendor's samples has it.
func TestListReadsBothForms(t *testing.T) {
	want := List[DataDisk]{{Index: 1, Size: 40, Parts: List[Part]{{Device: "1_0", SizeBytes: 1, Block: true}}}}
	for _, text := range []string{
		`{"DataDisk":[{"Index":1,"Size":40,"Parts":{"Part":[{"Device":"1_0","SizeBytes":1,"Block":true}]}}]}`,
		` [{"Index":1,"Size":40,"Parts":[{"Device":"1_0","SizeBytes":1,"Block":true}]}]`,
	} {
		var got List[DataDisk]
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", text, diff)
		}
	}
	var got List[Tag]
	for _, text := range []string{`{}`, `null`, `{"Tag":null}`, `[]`} {
		if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != 0 {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

// TestReplicationJobHasEveryField holds the JSON of a job against the fields the documents list.
func TestReplicationJobHasEveryField(t *testing.T) {
	data, err := json.Marshal(ReplicationJob{Frequency: 1, MaxNumberOfImageToKeep: 1})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"Frequency", "VpcId", "CreationTime", "Status", "ScheduledStartTime", "MaxNumberOfImageToKeep", "ContainerNamespace", "DataDisks",
		"StatusInfo", "InstanceRamRole", "SystemDiskSize", "Description", "ReplicationParameters", "ErrorCode", "ValidTime", "NetMode",
		"ContainerTag", "LicenseType", "Name", "ImageId", "Progress", "RunOnce", "LaunchTemplateId", "ContainerRepository", "InstanceId",
		"SystemDiskParts", "InstanceType", "SourceId", "LaunchTemplateVersion", "RegionId", "TransitionInstanceId", "EndTime", "StartTime",
		"VSwitchId", "JobId", "ImageName", "BusinessStatus", "ReplicationJobRuns", "TargetType", "JobType", "ResourceGroupId", "Tags",
	} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is not in the JSON of a job", name)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("fields outside the contract: %v", got)
	}
}
