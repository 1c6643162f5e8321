package events

import (
	"errors"
	"fmt"
	"strings"
)

// Filters that match whole families of subjects.
const (
	// AllSMC matches every event of every job and source server. It is what the stream captures.
	AllSMC = "smc.v1.>"
	// AllDrover matches every event of every migration and fleet.
	AllDrover = "drover.v1.>"
)

const (
	smcPrefix      = "smc.v1"
	droverPrefix   = "drover.v1"
	progressPrefix = "smc.progress.v1"
)

// Kind says what sort of resource a subject is about. Its text is the token of the subject.
type Kind string

// The kinds of resources that have subjects.
const (
	KindJob       Kind = "job"
	KindSource    Kind = "source"
	KindMigration Kind = "migration"
	KindFleet     Kind = "fleet"
)

// ErrBadSubject is what [ParseSubject] and [DecodeToken] return, wrapped, for a text that no
// builder of this package makes.
var ErrBadSubject = errors.New("not a subject of this package")

// Subject is a parsed subject. The zero value is not a subject.
type Subject struct {
	Kind    Kind
	Account string
	// Region is set for jobs and source servers.
	Region string
	// Fleet is set for migrations and fleets.
	Fleet string
	// ID is the JobId of a job and the SourceId of a source server or a migration. A fleet has none.
	ID string
	// Progress is true for the core NATS subject of a job's progress.
	Progress bool
}

// JobSubject is the subject of the status changes of a job.
func JobSubject(account, region, jobID string) string {
	return smcPrefix + "." + EncodeToken(account) + "." + EncodeToken(region) + ".job." + EncodeToken(jobID)
}

// SourceSubject is the subject of the state changes of a source server.
func SourceSubject(account, region, sourceID string) string {
	return smcPrefix + "." + EncodeToken(account) + "." + EncodeToken(region) + ".source." + EncodeToken(sourceID)
}

// MigrationSubject is the subject of the phase changes of a migration.
func MigrationSubject(account, fleet, sourceID string) string {
	return droverPrefix + "." + EncodeToken(account) + ".migration." + EncodeToken(fleet) + "." + EncodeToken(sourceID)
}

// FleetSubject is the subject of the status changes of a fleet.
func FleetSubject(account, fleet string) string {
	return droverPrefix + "." + EncodeToken(account) + ".fleet." + EncodeToken(fleet)
}

// ProgressSubject is the core NATS subject of a job's progress. No stream captures it.
func ProgressSubject(account, region, jobID string) string {
	return progressPrefix + "." + EncodeToken(account) + "." + EncodeToken(region) + ".job." + EncodeToken(jobID)
}

// JobFilter matches the subjects of jobs. An empty argument matches all.
func JobFilter(account, region, jobID string) string {
	return smcPrefix + "." + tokenOrAny(account) + "." + tokenOrAny(region) + ".job." + tokenOrAny(jobID)
}

// SourceFilter matches the subjects of source servers. An empty argument matches all.
func SourceFilter(account, region, sourceID string) string {
	return smcPrefix + "." + tokenOrAny(account) + "." + tokenOrAny(region) + ".source." + tokenOrAny(sourceID)
}

// MigrationFilter matches the subjects of migrations. An empty argument matches all.
func MigrationFilter(account, fleet, sourceID string) string {
	return droverPrefix + "." + tokenOrAny(account) + ".migration." + tokenOrAny(fleet) + "." + tokenOrAny(sourceID)
}

// FleetFilter matches the subjects of fleets. An empty argument matches all.
func FleetFilter(account, fleet string) string {
	return droverPrefix + "." + tokenOrAny(account) + ".fleet." + tokenOrAny(fleet)
}

// ProgressFilter matches the progress subjects of jobs. An empty argument matches all.
func ProgressFilter(account, region, jobID string) string {
	return progressPrefix + "." + tokenOrAny(account) + "." + tokenOrAny(region) + ".job." + tokenOrAny(jobID)
}

func tokenOrAny(name string) string {
	if name == "" {
		return "*"
	}
	return EncodeToken(name)
}

// String builds the subject's text. ParseSubject(s.String()) gives s back.
func (s Subject) String() string {
	switch {
	case s.Progress:
		return ProgressSubject(s.Account, s.Region, s.ID)
	case s.Kind == KindJob:
		return JobSubject(s.Account, s.Region, s.ID)
	case s.Kind == KindSource:
		return SourceSubject(s.Account, s.Region, s.ID)
	case s.Kind == KindMigration:
		return MigrationSubject(s.Account, s.Fleet, s.ID)
	case s.Kind == KindFleet:
		return FleetSubject(s.Account, s.Fleet)
	}
	return ""
}

// ParseSubject takes a subject apart. The error wraps [ErrBadSubject].
func ParseSubject(subject string) (Subject, error) {
	bad := func(why string) (Subject, error) {
		return Subject{}, fmt.Errorf("subject %q: %s: %w", subject, why, ErrBadSubject)
	}
	rest, progress := strings.CutPrefix(subject, progressPrefix+".")
	smc := progress
	if !smc {
		rest, smc = strings.CutPrefix(subject, smcPrefix+".")
	}
	if !smc {
		var drover bool
		if rest, drover = strings.CutPrefix(subject, droverPrefix+"."); !drover {
			return bad("unknown prefix")
		}
	}

	tokens := strings.Split(rest, ".")
	s := Subject{Progress: progress}
	var kind string
	var fields []*string
	switch {
	case smc && len(tokens) == 4:
		kind, fields = tokens[2], []*string{&s.Account, &s.Region, nil, &s.ID}
	case !smc && len(tokens) == 4:
		kind, fields = tokens[1], []*string{&s.Account, nil, &s.Fleet, &s.ID}
	case !smc && len(tokens) == 3:
		kind, fields = tokens[1], []*string{&s.Account, nil, &s.Fleet}
	default:
		return bad("wrong number of tokens")
	}
	s.Kind = Kind(kind)
	var known bool
	switch s.Kind {
	case KindJob:
		known = smc
	case KindSource:
		known = smc && !progress
	case KindMigration:
		known = !smc && len(tokens) == 4
	case KindFleet:
		known = !smc && len(tokens) == 3
	}
	if !known {
		return bad("unknown kind")
	}
	for i, field := range fields {
		if field == nil {
			continue
		}
		name, err := DecodeToken(tokens[i])
		if err != nil {
			return bad(fmt.Sprintf("token %q", tokens[i]))
		}
		*field = name
	}
	return s, nil
}

const (
	upperHex = "0123456789ABCDEF"
	// emptyToken stands for the empty name: NATS has no empty tokens, and no name encodes to a lone percent sign.
	emptyToken = "%"
)

// EncodeToken makes one subject token of any name. Letters and digits of ASCII, '-' and '_' stand
// for themselves; every other byte (so also dots, spaces, wildcards and what is not ASCII) is
// written %XX. The empty name is a lone "%". [DecodeToken] reverses it, and two names never
// have the same token.
func EncodeToken(name string) string {
	if name == "" {
		return emptyToken
	}
	plain := 0
	for plain < len(name) && isPlain(name[plain]) {
		plain++
	}
	if plain == len(name) {
		return name
	}
	var b strings.Builder
	b.WriteString(name[:plain])
	for i := plain; i < len(name); i++ {
		if c := name[i]; isPlain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&0xF])
		}
	}
	return b.String()
}

// DecodeToken gives the name of a token made by [EncodeToken]. A token that EncodeToken does not
// make, for example one with a needless escape, is an error wrapping [ErrBadSubject].
func DecodeToken(token string) (string, error) {
	if token == emptyToken {
		return "", nil
	}
	bad := func() (string, error) { return "", fmt.Errorf("subject token %q: %w", token, ErrBadSubject) }
	if token == "" {
		return bad()
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		c := token[i]
		switch {
		case isPlain(c):
			b.WriteByte(c)
		case c == '%' && i+2 < len(token):
			hi, lo := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
			if hi < 0 || lo < 0 || isPlain(byte(hi<<4|lo)) {
				return bad()
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			return bad()
		}
	}
	return b.String(), nil
}

func isPlain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}
