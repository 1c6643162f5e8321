package agentapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/smc"
)

func client(t *testing.T, token string, handler http.HandlerFunc) *agentapi.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := agentapi.NewClient(server.URL+"/", token, agentapi.WithHTTPClient(server.Client()))
	require.NoError(t, err)
	return c
}

func TestRegister(t *testing.T) {
	want := agentapi.RegisterRequest{
		Code: "code", Name: "web-1", Instance: "i",
		Server: agentapi.Server{Hostname: "h", SystemInfo: json.RawMessage(`{"cores":"2"}`), Disks: []agentapi.Disk{
			{SizeBytes: 5, Parts: []agentapi.Part{{Device: "0_0", CanBlock: true}}},
		}},
	}
	c := client(t, "", func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "POST /agent/v1/register", r.Method+" "+r.URL.String())
		assert.Empty(t, r.Header.Get("Authorization"))
		var got agentapi.RegisterRequest
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&got))
		assert.Equal(t, want, got)
		_, _ = w.Write([]byte(`{"sourceId":"s-1","token":"t","heartbeatRateSeconds":30}`))
	})
	got, err := c.Register(context.Background(), want)
	require.NoError(t, err)
	assert.Equal(t, agentapi.RegisterResponse{SourceID: "s-1", Token: "t", HeartbeatRateSeconds: 30}, got)
}

func TestRegisterNeedsAnIdentity(t *testing.T) {
	c := client(t, "", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"sourceId":"s-1"}`)) })
	_, err := c.Register(context.Background(), agentapi.RegisterRequest{})
	require.ErrorContains(t, err, "no token")
}

func TestHeartbeatBearsTheToken(t *testing.T) {
	c := client(t, "", func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "POST /agent/v1/heartbeat", r.Method+" "+r.URL.String())
		assert.Equal(t, "Bearer secret", r.Header.Get("Authorization"))
		_, _ = w.Write([]byte(`{"heartbeatRateSeconds":5}`))
	})
	resp, err := c.WithToken("secret").Heartbeat(context.Background(), agentapi.HeartbeatRequest{Instance: "i"})
	require.NoError(t, err)
	assert.Equal(t, 5, resp.HeartbeatRateSeconds)
}

func TestWork(t *testing.T) {
	q := agentapi.WorkQuery{Instance: "i", Have: 3, Wait: 2 * time.Second}
	c := client(t, "secret", func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "GET /agent/v1/work", r.Method+" "+r.URL.Path)
		got, err := agentapi.ParseWorkQuery(r.URL.Query())
		assert.NoError(t, err)
		assert.Equal(t, q, got)
		_, _ = w.Write([]byte(`{"generation":4,"work":{"jobId":"j-1","run":2,"hostUrl":"http://h","token":"t",
			"parameters":{"bandwidthLimit":8,"compressLevel":1,"checksum":true}}}`))
	})
	got, err := c.Work(context.Background(), q)
	require.NoError(t, err)
	assert.Equal(t, agentapi.Desired{Generation: 4, Work: &agentapi.Work{
		JobID: "j-1", Run: 2, HostURL: "http://h", Token: "t",
		Parameters: agentapi.Params{BandwidthLimit: 8, CompressLevel: 1, Checksum: true},
	}}, got)
}

func TestWorkNeedsAGeneration(t *testing.T) {
	c := client(t, "t", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) })
	_, err := c.Work(context.Background(), agentapi.WorkQuery{Instance: "i"})
	require.ErrorContains(t, err, "generation 0")
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		want   smc.Error
	}{
		"of the API": {
			http.StatusForbidden, `{"RequestId":"R","HostId":"H","Code":"InvalidActivationCode","Message":"it has expired"}`,
			smc.Error{HTTPStatus: 403, Code: agentapi.CodeInvalidActivationCode, Message: "it has expired", RequestID: "R", HostID: "H"},
		},
		"of something else": {
			http.StatusBadGateway, "<html>" + strings.Repeat("x", 5000),
			smc.Error{HTTPStatus: 502, Code: agentapi.CodeUnexpectedAnswer},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, "t", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			})
			_, err := c.Heartbeat(context.Background(), agentapi.HeartbeatRequest{})
			var refusal *smc.Error
			require.ErrorAs(t, err, &refusal)
			if test.want.Message == "" {
				assert.Contains(t, refusal.Message, "502 Bad Gateway")
				assert.Less(t, len(refusal.Message), 400)
				refusal.Message = ""
			}
			assert.Equal(t, test.want, *refusal)
		})
	}
}

func TestBodiesAreBounded(t *testing.T) {
	asked := false
	c := client(t, "t", func(w http.ResponseWriter, _ *http.Request) {
		asked = true
		_, _ = w.Write([]byte(`{"heartbeatRateSeconds":5` + strings.Repeat(" ", agentapi.MaxBodyBytes) + `}`))
	})
	_, err := c.Heartbeat(context.Background(), agentapi.HeartbeatRequest{})
	require.ErrorContains(t, err, "longer than")
	asked = false
	_, err = c.Heartbeat(context.Background(), agentapi.HeartbeatRequest{Instance: strings.Repeat("x", agentapi.MaxBodyBytes)})
	require.ErrorContains(t, err, "more than")
	assert.False(t, asked)
}

func TestCancelledCallReturns(t *testing.T) {
	entered := make(chan struct{})
	c := client(t, "t", func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-entered
		cancel()
	}()
	_, err := c.Work(ctx, agentapi.WorkQuery{Instance: "i", Wait: time.Minute})
	require.ErrorIs(t, err, context.Canceled)
}

func TestParseWorkQuery(t *testing.T) {
	for query, want := range map[string]agentapi.WorkQuery{
		"instance=i":                  {Instance: "i", Wait: agentapi.DefaultWait},
		"instance=i&have=7&wait=5s":   {Instance: "i", Have: 7, Wait: 5 * time.Second},
		"instance=i&wait=0s":          {Instance: "i"},
		"instance=i&wait=100h&have=0": {Instance: "i", Wait: agentapi.MaxWait},
	} {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		got, err := agentapi.ParseWorkQuery(values)
		require.NoError(t, err, query)
		assert.Equal(t, want, got, query)
	}
	for _, query := range []string{"", "instance=", "instance=i&have=x", "instance=i&have=-1", "instance=i&wait=5", "instance=i&wait=-5s"} {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		_, err = agentapi.ParseWorkQuery(values)
		assert.Error(t, err, query)
	}
}

func TestNewClientRefusesWhatIsNoEndpoint(t *testing.T) {
	for _, endpoint := range []string{"", "center:7700", "ftp://center", "http://", "://"} {
		_, err := agentapi.NewClient(endpoint, "")
		assert.Error(t, err, endpoint)
	}
}

func TestTargets(t *testing.T) {
	target := agentapi.Target{Hostname: "h", AgentVersion: "1", Disks: []agentapi.TargetDisk{{Path: "/dev/sda", SizeBytes: 5, HoldsData: true}}}
	register := agentapi.RegisterTargetRequest{Code: "code", Name: "t-1", Instance: "i", Target: target}
	report := agentapi.DeliveryReport{
		Instance: "i", Generation: 4, JobID: "j-1", Run: 2, State: agentapi.DeliveryDone, BytesTotal: 3, BytesDone: 3, BytesFetched: 1,
		Disks: []agentapi.DeliveredDisk{{Root: "r"}},
	}
	c := client(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != agentapi.PathRegisterTarget {
			assert.Equal(t, "Bearer secret", r.Header.Get("Authorization"))
		}
		switch r.Method + " " + r.URL.Path {
		case "POST /agent/v1/target/register":
			var got agentapi.RegisterTargetRequest
			assert.NoError(t, json.NewDecoder(r.Body).Decode(&got))
			assert.Equal(t, register, got)
			_, _ = w.Write([]byte(`{"instanceId":"i-1","token":"secret","heartbeatRateSeconds":5}`))
		case "POST /agent/v1/target/heartbeat":
			_, _ = w.Write([]byte(`{"heartbeatRateSeconds":7}`))
		case "GET /agent/v1/target/work":
			q, err := agentapi.ParseWorkQuery(r.URL.Query())
			assert.NoError(t, err)
			assert.Equal(t, agentapi.WorkQuery{Instance: "i", Have: 3, Wait: time.Second}, q)
			_, _ = w.Write([]byte(`{"generation":4,"delivery":{"jobId":"j-1","run":2,"imageId":"m-1","hostUrl":"http://h","token":"t","bandwidthLimit":8,
				"disks":[{"index":1,"sizeBytes":9}]}}`))
		case "POST /agent/v1/target/delivery":
			var got agentapi.DeliveryReport
			assert.NoError(t, json.NewDecoder(r.Body).Decode(&got))
			assert.Equal(t, report, got)
			_, _ = w.Write([]byte(`{"superseded":true}`))
		default:
			t.Errorf("%s %s", r.Method, r.URL)
		}
	})
	ctx := context.Background()
	registered, err := c.RegisterTarget(ctx, register)
	require.NoError(t, err)
	assert.Equal(t, agentapi.RegisterTargetResponse{InstanceID: "i-1", Token: "secret", HeartbeatRateSeconds: 5}, registered)

	c = c.WithToken("secret")
	beat, err := c.TargetHeartbeat(ctx, agentapi.TargetHeartbeatRequest{Instance: "i", Target: target})
	require.NoError(t, err)
	assert.Equal(t, 7, beat.HeartbeatRateSeconds)
	desired, err := c.TargetWork(ctx, agentapi.WorkQuery{Instance: "i", Have: 3, Wait: time.Second})
	require.NoError(t, err)
	assert.Equal(t, agentapi.DesiredDelivery{Generation: 4, Delivery: &agentapi.Delivery{
		JobID: "j-1", Run: 2, ImageID: "m-1", HostURL: "http://h", Token: "t", BandwidthLimit: 8,
		Disks: []agentapi.DeliveryDisk{{Index: 1, SizeBytes: 9}},
	}}, desired)
	answer, err := c.Deliver(ctx, report)
	require.NoError(t, err)
	assert.True(t, answer.Superseded)
}

func TestTargetsNeedAnIdentityAndAGeneration(t *testing.T) {
	c := client(t, "", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"instanceId":"i-1"}`)) })
	_, err := c.RegisterTarget(context.Background(), agentapi.RegisterTargetRequest{})
	require.ErrorContains(t, err, "no token")
	_, err = c.TargetWork(context.Background(), agentapi.WorkQuery{Instance: "i"})
	require.ErrorContains(t, err, "generation 0")
}
