package store

import (
	"context"
	"fmt"
	"time"

	"github.com/drover/drover/smc"
)

// Expire makes a job that rests Expired, because its ValidTime has passed (CONTRACT: ValidTime passes), and returns when it is
// cleared. asOf is when its entity saw that the time had come: the clocks of two machines may disagree. Error: ErrSuperseded
// when the job is not to expire: it is Running, ended meanwhile, or its ValidTime was changed.
func (s *Store) Expire(ctx context.Context, jobID, key string, asOf time.Time) (*Schedule, error) {
	job, err := s.transition(ctx, change{
		jobID: jobID, key: key,
		from: func(job *Job) error {
			if smc.Allowed(smc.TriggerExpire, job.state()) != nil || !job.lapsed(later(s.now(), asOf)) {
				return fmt.Errorf("%w: it is %s, valid until %s", ErrSuperseded, job.Status, smc.FormatTime(job.ValidUntil))
			}
			return nil
		},
		apply: func(_ *transaction, job *Job) error {
			now := s.now().UTC()
			info := fmt.Sprintf("ValidTime %s passed while the job was %s; it is cleared at %s, its images stay",
				smc.FormatTime(job.ValidUntil), job.Status, smc.FormatTime(now.Add(smc.ExpiredRetention)))
			if job.ErrorCode != "" {
				info += fmt.Sprintf("; the error was %s: %s", job.ErrorCode, job.StatusInfo)
			}
			job.Status, job.ErrorCode, job.StatusInfo, job.EndedAt = smc.StatusExpired, "", info, now
			job.Missed = Missed{}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return job.Schedule(), nil
}
