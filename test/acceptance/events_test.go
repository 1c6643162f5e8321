package acceptance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/events/eventstest"
	"github.com/drover/drover/test/stack"
)

// event is as much of a job's event as is checked here.
type event struct {
	SpecVersion     string `json:"specversion"`
	ID              string `json:"id"`
	Type            string `json:"type"`
	Source          string `json:"source"`
	Subject         string `json:"subject"`
	Time            string `json:"time"`
	DataContentType string `json:"datacontenttype"`
	Sequence        string `json:"sequence"`
	Data            struct {
		JobID                  string `json:"JobId"`
		Sequence               int64  `json:"Sequence"`
		Status                 string `json:"Status"`
		BusinessStatus         string `json:"BusinessStatus"`
		PreviousStatus         string `json:"PreviousStatus"`
		PreviousBusinessStatus string `json:"PreviousBusinessStatus"`
		ErrorCode              string `json:"ErrorCode"`
	} `json:"data"`

	natsSubject string
	headers     nats.Header
}

func place(status, phase string) string {
	if phase == "" {
		return status
	}
	return status + "/" + phase
}

// follower hears every event of every job, with nothing but nats.go: an ordered consumer. It stays through outages.
type follower struct {
	mu     sync.Mutex
	events []event
	broken []string
}

// follow starts a follower at the beginning of the stream.
func (s *center) follow() *follower {
	t := s.t
	t.Helper()
	nc, err := s.ConnectNATS()
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	var consumer jetstream.Consumer
	stack.Eventually(t, slow, "the stream is there", func() (bool, any) { // its relay makes it, a moment after the center is ready
		consumer, err = js.OrderedConsumer(ctx, "SMC", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"smc.v1.*.*.job.*"}})
		return err == nil, err
	})
	f := &follower{}
	consuming, err := consumer.Consume(f.take)
	require.NoError(t, err)
	t.Cleanup(consuming.Stop)
	return f
}

func (f *follower) take(msg jetstream.Msg) {
	e := event{natsSubject: msg.Subject(), headers: msg.Headers()}
	err := errors.Join(json.Unmarshal(msg.Data(), &e), eventstest.Check(msg.Data()))
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.broken = append(f.broken, err.Error())
		return
	}
	f.events = append(f.events, e)
}

// story returns the events of a job so far.
func (f *follower) story(jobID string) (story []event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.events {
		if e.Data.JobID == jobID {
			story = append(story, e)
		}
	}
	return story
}

// The statuses of a job, as events name them.
var (
	oneRun = []string{"Running/Preparing", "Running/Syncing", "Running/Processing", "Running/Cleaning"}
	begun  = []string{"Running/Preparing", "Running/Syncing"}
)

// chain joins statuses.
func chain(parts ...any) (statuses []string) {
	for _, part := range parts {
		switch part := part.(type) {
		case string:
			statuses = append(statuses, part)
		case []string:
			statuses = append(statuses, part...)
		}
	}
	return statuses
}

// requireStory waits for the events of a job and checks that they are exactly these, once each, in order: one of the stories, where it depends on
// who is faster.
func (f *follower) requireStory(t *testing.T, jobID string, stories ...[]string) {
	t.Helper()
	longest := slices.MaxFunc(stories, func(a, b []string) int { return cmp.Compare(len(a), len(b)) })
	stack.Eventually(t, slow, "all events of "+jobID+" have come", func() (bool, any) {
		var told []string
		for _, e := range f.story(jobID) {
			told = append(told, place(e.Data.Status, e.Data.BusinessStatus))
		}
		return len(told) >= len(longest) || slices.ContainsFunc(stories, func(story []string) bool { return slices.Equal(story, told) }), told
	})
	f.mu.Lock()
	assert.Empty(t, f.broken, "messages that are no event, or not as their schema says")
	f.mu.Unlock()
	var got []string
	ids := map[string]bool{}
	for i, e := range f.story(jobID) {
		got = append(got, place(e.Data.Status, e.Data.BusinessStatus))
		assert.Equal(t, "1.0", e.SpecVersion)
		assert.Equal(t, "smc.job.status.v1", e.Type)
		assert.Equal(t, "application/json", e.DataContentType)
		assert.Equal(t, jobID, e.Subject)
		assert.NotEmpty(t, e.Source)
		_, err := time.Parse(time.RFC3339Nano, e.Time)
		assert.NoError(t, err)
		assert.False(t, ids[e.ID], "event %s came twice", e.ID)
		ids[e.ID] = true
		assert.Equal(t, int64(i+1), e.Data.Sequence, "number of event %s", e.ID)
		extension, err := strconv.ParseInt(e.Sequence, 10, 64)
		assert.NoError(t, err)
		assert.Equal(t, int64(i+1), extension, "sequence extension of event %s", e.ID)
		if i > 0 {
			assert.Equal(t, got[i-1], place(e.Data.PreviousStatus, e.Data.PreviousBusinessStatus), "previous status in event %s", e.ID)
		}
		assert.True(t, strings.HasSuffix(e.natsSubject, ".job."+jobID), "subject %s", e.natsSubject)
		assert.Equal(t, e.ID, e.headers.Get("Nats-Msg-Id"))
		assert.Equal(t, e.Data.Status, e.headers.Get("Smc-Status"))
	}
	if len(stories) > 1 {
		require.Contains(t, stories, got, "what the events tell of %s", jobID)
		return
	}
	require.Equal(t, stories[0], got, "what the events tell of %s", jobID)
}
