package store

import (
	"encoding/json"
	"fmt"

	"github.com/drover/drover/smc"
)

// wholeJob is an expression for a job j with its runs, what keeps it from getting on, and its tags: a JSON array that decodeJob reads. So
// one statement reads all of them, as they are at one moment. array and rows are the database's functions that make an array of values,
// and of those of many rows; nested is what keeps such an array one within another.
func wholeJob(array, rows, nested string) string {
	of := func(table, key, columns, order string) string {
		return nested + `((SELECT ` + rows + `(` + array + `(` + columns + `) ORDER BY ` + order + `) FROM ` + table + ` WHERE ` + key + ` = j.job_id))`
	}
	return `CAST(` + array + `(` + jobColumns + `, ` + of("replication_runs", "job_id", runColumns, "number") + `, ` +
		of("run_troubles", "job_id", troubleColumns, "noted_at") + `, ` + of("tags", "resource_id", tagColumns, "tag_key") + `) AS TEXT)`
}

const (
	runColumns = `number, type, status, started_at, ended_at, image_id, bytes_total, bytes_read, bytes_sent, bytes_sent_raw, rate`
	tagColumns = `tag_key, tag_value`
)

// decodeJob reads what wholeJob made.
func decodeJob(whole string) (*Job, error) {
	var columns jsonRow
	if err := json.Unmarshal([]byte(whole), &columns); err != nil {
		return nil, fmt.Errorf("a job: %w", err)
	}
	own := len(columns) - 3
	job, err := scanJob(columns[:own])
	if err != nil {
		return nil, err
	}
	var runs, troubles, tags []jsonRow
	if err := columns[own:].Scan(&runs, &troubles, &tags); err != nil {
		return nil, fmt.Errorf("job %s: %w", job.JobID, err)
	}
	for _, row := range runs {
		var run Run
		var started, ended int64
		if err := row.Scan(&run.Number, &run.Type, &run.Status, &started, &ended, &run.ImageID, &run.BytesTotal, &run.BytesRead, &run.BytesSent, &run.BytesSentRaw,
			&run.Rate); err != nil {
			return nil, fmt.Errorf("a run of job %s: %w", job.JobID, err)
		}
		run.StartedAt, run.EndedAt = fromMillis(started), fromMillis(ended)
		job.Runs = append(job.Runs, run)
	}
	for _, row := range troubles {
		trouble, sequence, err := scanTrouble(row)
		if err != nil {
			return nil, fmt.Errorf("a trouble of job %s: %w", job.JobID, err)
		}
		job.troubled(trouble, sequence)
	}
	for _, row := range tags {
		var tag smc.Tag
		if err := row.Scan(&tag.Key, &tag.Value); err != nil {
			return nil, fmt.Errorf("a tag of job %s: %w", job.JobID, err)
		}
		job.Tags = append(job.Tags, tag)
	}
	return job, nil
}

// jsonRow is a row that the database gave as a JSON array.
type jsonRow []json.RawMessage

// Scan implements rowScanner.
func (r jsonRow) Scan(dest ...any) error {
	if len(dest) != len(r) {
		return fmt.Errorf("%d columns, not %d", len(r), len(dest))
	}
	for i := range dest {
		if err := json.Unmarshal(r[i], dest[i]); err != nil {
			return fmt.Errorf("column %d: %w", i+1, err)
		}
	}
	return nil
}
