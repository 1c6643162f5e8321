package center

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// Every call is answered in time, whatever hangs behind the endpoint. docs/operations.md tells these times.
const (
	// callLimit is how long a call of the SMC API may take once it is read. The record of it may take auditTimeout more, and both are less than
	// the 30 seconds for which the client listens.
	callLimit = 20 * time.Second
	// agentCallLimit is how much longer than the wait that it asked for an agent's call may take: less than the 15 seconds of its client.
	agentCallLimit = 10 * time.Second
	// beginLimit is how long CreateReplicationJob waits for the entity of a job that exists already: a sweep starts it else.
	beginLimit = 4 * time.Second
)

// agentLimit bounds an agent's call.
func agentLimit(r *http.Request) (*http.Request, context.CancelFunc) {
	limit := agentCallLimit
	if r.Method == http.MethodGet { // for work: it waits
		if query, err := agentapi.ParseWorkQuery(r.URL.Query()); err == nil {
			limit += query.Wait
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	return r.WithContext(ctx), cancel
}

// unanswered gives an error its code that only says that something behind the endpoint does not answer at present.
func unanswered(err error) error {
	if err == nil || smc.CodeOf(err) != "" || !store.Away(err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, smc.Errorf(smc.CodeServiceUnavailable,
		"the center's database does not answer at present: whether the call was carried out is not known. Send it again, one that creates something with the same ClientToken"))
}
