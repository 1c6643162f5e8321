package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

func (x *examination) schema(ctx context.Context) error {
	database, program, err := x.Record.Schemas(ctx)
	if err != nil {
		return err
	}
	switch {
	case database < program:
		x.find(schemaBehind, "database", "its tables have version %d, this program works with %d", database, program)
	case database > program:
		x.find(schemaAhead, "database", "its tables have version %d, this program knows %d", database, program)
	}
	return nil
}

func (x *examination) secrets(ctx context.Context) error {
	err := x.Record.CheckSecrets(ctx)
	if errors.Is(err, store.ErrNotOpened) {
		x.find(secretKey, "database", "%v", err)
		return nil
	}
	return err
}

// SecretKeyFile is the finding of a secret key file that is not as it should be.
func SecretKeyFile(path string, why error) Finding {
	k := kindOf(secretKey)
	return Finding{Kind: k.Name, Severity: k.Severity, Thing: path, Text: why.Error(), Means: k.Means, Do: k.Do}
}

func (x *examination) backups(ctx context.Context) error {
	restoration, err := x.Record.Restored(ctx)
	if err != nil {
		return err
	}
	if restoration != nil {
		x.find(restored, "database", "restored at %s from a backup of %s", smc.FormatTime(restoration.RestoredAt), smc.FormatTime(restoration.BackupAt))
	}
	last, err := x.Record.LastBackup(ctx)
	if err != nil {
		return err
	}
	switch age := x.now().Sub(last); {
	case last.IsZero():
		x.find(backupUnknown, "database", "none is known")
	case age > x.Limits.Backup:
		x.find(backupOld, "database", "the last one is of %s, %s ago", smc.FormatTime(last), short(age))
	}
	return nil
}

func (x *examination) processes(ctx context.Context) error {
	ahead, err := x.Record.ClockAhead(ctx)
	if err != nil {
		return err
	}
	x.clock("this machine", ahead, "the database's")
	all, err := x.Record.Processes(ctx, x.Limits.Presence)
	if err != nil {
		return err
	}
	versions, servers, workers := map[string][]string{}, 0, 0
	for _, p := range all {
		versions[p.Version] = append(versions[p.Version], p.Program+" on "+p.Machine)
		if p.Program == "drover-server" {
			servers++
		}
		if strings.Contains(p.Program, "center") {
			workers++
		}
		x.clock(fmt.Sprintf("%s on %s", p.Program, p.Machine), p.ClockAhead, "the database's")
	}
	if servers == 0 {
		x.find(processMissing, "drover-server", "none has reported itself")
	}
	if workers == 0 {
		x.find(processMissing, "drover-worker --role center", "none has reported itself")
	}
	if len(versions) > 1 {
		var said []string
		for version, of := range versions {
			slices.Sort(of)
			said = append(said, version+": "+strings.Join(slices.Compact(of), ", "))
		}
		slices.Sort(said)
		x.find(versionsMixed, "center", "%s", strings.Join(said, "; "))
	}
	// Agents are held against the newest server.
	newest := ""
	for _, p := range all {
		if p.Program == "drover-server" && (newest == "" || semver.Compare(semantic(p.Version), semantic(newest)) > 0) {
			newest = p.Version
		}
	}
	sources, err := x.Record.SourceStates(ctx)
	if err != nil {
		return err
	}
	for _, s := range sources {
		if s.State == smc.SourceUnavailable {
			continue // what it said last is old
		}
		x.version(s.SourceID, s.Name, s.AgentVersion, newest)
		x.clock(fmt.Sprintf("source server %s (%s)", s.SourceID, s.Name), s.ClockAhead, "its center's")
	}
	targets, err := x.Record.AllTargets(ctx)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if t.State(x.now()) == smc.InstanceUnavailable {
			continue
		}
		x.version(t.InstanceID, t.Name, t.Target.AgentVersion, newest)
		x.clock(fmt.Sprintf("target instance %s (%s)", t.InstanceID, t.Name), t.ClockAhead, "its center's")
	}
	return nil
}

// version holds the version of an agent against that of the newest server, which may not be known.
func (x *examination) version(thing, name, version, newest string) {
	if newest == "" || version == "" || version == newest {
		return
	}
	how := "another version than"
	if a, b := semantic(version), semantic(newest); semver.IsValid(a) && semver.IsValid(b) {
		how = map[bool]string{true: "an older version than", false: "a newer version than"}[semver.Compare(a, b) < 0]
	}
	x.find(agentVersion, thing, "the agent of %s is %s, %s the center's %s", name, version, how, newest)
}

func semantic(version string) string { return "v" + strings.TrimPrefix(version, "v") }

// clock judges by how much the clock of something is ahead of another one.
func (x *examination) clock(thing string, ahead time.Duration, reference string) {
	if ahead.Abs() <= x.Limits.Skew {
		return
	}
	how := "ahead of"
	if ahead < 0 {
		how = "behind"
	}
	x.find(clockSkew, thing, "its clock is %s %s %s", short(ahead.Abs()), how, reference)
}

func (x *examination) sources(ctx context.Context) error {
	jobs, err := x.Record.AllJobs(ctx)
	if err != nil {
		return err
	}
	holds := map[string]*store.Job{}
	for _, job := range jobs {
		x.jobs[job.JobID] = job
		switch job.Status {
		case smc.StatusReady, smc.StatusRunning, smc.StatusStopped, smc.StatusWaiting, smc.StatusInError:
			holds[job.SourceID] = job
		case smc.StatusFinished, smc.StatusExpired, smc.StatusDeleting:
		}
	}
	sources, err := x.Record.SourceStates(ctx)
	if err != nil {
		return err
	}
	for _, s := range sources {
		if job := holds[s.SourceID]; job != nil && s.State == smc.SourceUnavailable {
			x.find(sourceOffline, s.SourceID, "%s was heard of last at %s; its job %s is %s", s.Name, smc.FormatTime(s.HeartbeatAt), job.JobID, job.Status)
		}
	}
	targets, err := x.Record.AllTargets(ctx)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if job := x.jobs[t.JobID]; job != nil && job.Status != smc.StatusExpired && t.State(x.now()) == smc.InstanceUnavailable {
			x.find(targetOffline, t.InstanceID, "%s was heard of last at %s; %s, which migrates to it, is %s", t.Name, smc.FormatTime(t.HeartbeatAt), job.JobID, job.Status)
		}
	}
	return nil
}

func (x *examination) hosts(ctx context.Context) error {
	hosts, err := x.Record.HostStates(ctx)
	if err != nil {
		return err
	}
	now := x.now()
	for _, h := range hosts {
		switch {
		case !h.Alive && h.Jobs+h.Images > 0:
			var held []string
			for _, job := range x.jobs {
				if job.HostID == h.HostID {
					held = append(held, fmt.Sprintf("%s %s", job.JobID, job.Status))
				}
			}
			slices.Sort(held)
			x.find(hostOffline, h.HostID, "at %s, reported itself last at %s; it holds %d jobs and %d images%s", h.URL, smc.FormatTime(h.HeartbeatAt), h.Jobs, h.Images, listed(held))
			continue
		case !h.Alive:
			continue // nothing is bound to it
		}
		if h.SweptAt.IsZero() || now.Sub(h.SweptAt) > x.Limits.Swept {
			when := "it never has"
			if !h.SweptAt.IsZero() {
				when = "it did last at " + smc.FormatTime(h.SweptAt)
			}
			x.find(hostNotSwept, h.HostID, "%s", when)
		}
		if percent := 100 * float64(h.FreeBytes) / float64(max(1, h.TotalBytes)); h.TotalBytes > 0 && percent < x.Limits.FreePercent {
			x.find(diskLow, h.HostID, "%.1f GiB of %.1f GiB are free, %.1f %%", float64(h.FreeBytes)/(1<<30), float64(h.TotalBytes)/(1<<30), percent)
		}
	}
	found, err := x.Record.Orphans(ctx)
	if err != nil {
		return err
	}
	for _, o := range found {
		kind := orphan
		switch {
		case o.Kind == store.OrphanLostImage:
			kind = imageLost
		case !o.Kind.Expendable() && !o.Approved:
			kind = orphanUnknown
		case now.Sub(o.Since) > x.Limits.OrphanStuck:
			kind = orphanStuck
		}
		what := ""
		if o.Bytes > 0 {
			what = fmt.Sprintf(", %.1f MiB", float64(o.Bytes)/(1<<20))
		}
		if o.Approved {
			what += ", its removal is approved"
		}
		x.find(kind, o.Name, "%s on the transition host %s since %s%s: %s", o.Kind, o.HostID, smc.FormatTime(o.Since), what, o.Info)
	}
	return nil
}

// listed names a few of many.
func listed(names []string) string {
	const most = 5
	switch {
	case len(names) == 0:
		return ""
	case len(names) > most:
		return fmt.Sprintf(": %s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return ": " + strings.Join(names, ", ")
}

func (x *examination) examineJobs(ctx context.Context) error {
	now := x.now()
	for _, job := range x.jobs {
		if job.Status == smc.StatusInError {
			x.find(jobInError, job.JobID, "%s: %s: %s", job.Name, job.ErrorCode, job.StatusInfo)
		}
		if t := job.Trouble; t.Code != "" && now.Sub(t.Since) > x.Limits.Trouble {
			x.find(jobInTrouble, job.JobID, "%s, run %d, %s: %s", job.Name, job.Run, job.BusinessStatus, t)
		}
		if job.Queued() && now.Sub(job.Queue.Since) > x.Limits.Queued {
			x.find(jobQueued, job.JobID, "%s, since %s: %s", job.Name, smc.FormatTime(job.Queue.Since), job.Queue.Info)
		}
	}
	turns, err := x.Record.Admissible(ctx)
	if err != nil || len(turns) == 0 {
		return err
	}
	// Servers tell an entity within 5 seconds, and it takes its turn at once.
	if err := wait(ctx, 2*x.Limits.Settle); err != nil {
		return err
	}
	still, err := x.Record.Admissible(ctx)
	if err != nil {
		return err
	}
	for _, turn := range still {
		if slices.Contains(turns, turn) {
			x.find(jobNotAdmitted, turn.JobID, "a slot is free for it, and it has not taken it for %s", short(2*x.Limits.Settle))
		}
	}
	return nil
}

func (x *examination) sessions(ctx context.Context) error {
	sessions, reservations, err := x.Record.StraySessions(ctx)
	if err != nil || len(sessions)+len(reservations) == 0 {
		return err
	}
	if x.Fix {
		if _, err := x.Record.CloseStraySessions(ctx); err != nil {
			return err
		}
	}
	for _, s := range sessions {
		if s.InstanceID != "" {
			x.add(sessionStray, s.JobID, x.Fix, "the delivery to target instance %s of run %d is open", s.InstanceID, s.Run)
			continue
		}
		x.add(sessionStray, s.JobID, x.Fix, "the session of source server %s for run %d is open", s.SourceID, s.Run)
	}
	for _, jobID := range reservations {
		x.add(sessionStray, jobID, x.Fix, "it reserves room on a transition host")
	}
	return nil
}

func (x *examination) events(ctx context.Context) error {
	pending, oldest, err := x.Record.Backlog(ctx)
	if err != nil {
		return err
	}
	if age := x.now().Sub(oldest); pending > 0 && age > x.Limits.Unpublished {
		x.find(eventsWaiting, "outbox", "%d events wait, the oldest for %s", pending, short(age))
	}
	gaps, err := x.Record.EventGaps(ctx)
	if err != nil {
		return err
	}
	for _, g := range gaps {
		if g.Next == 0 {
			x.find(eventsGap, g.ResourceID, "its row has another number than its last event in the outbox, which is %d", g.After)
			continue
		}
		x.find(eventsGap, g.ResourceID, "event %d follows event %d in the outbox", g.Next, g.After)
	}
	return nil
}

// authorityNotice is how long before its end an authority is to be exchanged: agents have to hear of the next one.
const authorityNotice = 180 * 24 * time.Hour

func (x *examination) certificates(ctx context.Context, known bool) error {
	places := slices.Clone(x.Certificates)
	var failures []error
	if known {
		text, err := x.Record.StoredAuthorities(ctx)
		switch {
		case errors.Is(err, store.ErrNotOpened): // a finding of its own
		case err != nil:
			return err
		case text != "":
			authorities, err := ca.Parse(text)
			if err != nil {
				return fmt.Errorf("the center's certificate authorities: %w", err)
			}
			x.ends("the center's certificate authority", authorities.Certificates()[0], max(authorityNotice, x.Limits.Certificate))
		}
		hosts, err := x.Record.HostStates(ctx)
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if h.Alive && strings.HasPrefix(h.URL, "https:") {
				places = append(places, h.URL)
			}
		}
	}
	for _, place := range places {
		certificate, err := certificateOf(ctx, place)
		if err != nil {
			failures = append(failures, fmt.Errorf("the certificate of %s: %w", place, err))
			continue
		}
		// One of the center's own authority is exchanged daily, halfway through its life.
		x.ends(place, certificate, min(x.Limits.Certificate, certificate.NotAfter.Sub(certificate.NotBefore)/4))
	}
	return errors.Join(failures...)
}

func (x *examination) ends(what string, certificate *x509.Certificate, notice time.Duration) {
	left := certificate.NotAfter.Sub(x.now())
	switch {
	case left < 0:
		x.find(certificateEnds, what, "it ended at %s", smc.FormatTime(certificate.NotAfter))
	case left < notice:
		x.find(certificateEnds, what, "it ends at %s, in %s", smc.FormatTime(certificate.NotAfter), short(left))
	}
}

// certificateOf reads the certificate in a PEM file, or the one that is shown at an https URL.
func certificateOf(ctx context.Context, place string) (*x509.Certificate, error) {
	u, err := url.Parse(place)
	if err != nil || u.Scheme != "https" {
		data, err := os.ReadFile(place)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, errors.New("there is no certificate in it")
		}
		return x509.ParseCertificate(block.Bytes)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	// Only looked at, nothing is sent: who may trust it is not the question here.
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 3 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()}} //nolint:gosec // see above
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}
