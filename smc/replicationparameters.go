package smc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ReplicationParameters are the settings of the replication driver.
type ReplicationParameters struct {
	// BandwidthLimitKbps limits what is sent, in kbit/s; 0 means no limit.
	BandwidthLimitKbps int64
	// CompressLevel is 0 (none) to 9; DefaultCompressLevel when not given.
	CompressLevel int
	// Checksum is true when not given.
	Checksum bool
	// Ignored are the keys that mean nothing here, as they were given and in their order.
	Ignored []string
}

const (
	// DefaultCompressLevel is used when ReplicationParameters name none.
	DefaultCompressLevel = 1
	// maxBandwidthKbps keeps byte rates far from overflow: a petabit a second.
	maxBandwidthKbps = 1_000_000_000_000
	// maxReplicationParameters is in characters.
	maxReplicationParameters = 2048
)

// ParseReplicationParameters reads the parameter ReplicationParameters: a JSON object, its keys in today's or the
// older spelling and any case (CONTRACT: ReplicationParameters). An empty text means all defaults. The error is
// an InvalidParameter.
func ParseReplicationParameters(s string) (ReplicationParameters, error) {
	p := ReplicationParameters{CompressLevel: DefaultCompressLevel, Checksum: true}
	if s == "" {
		return p, nil
	}
	fail := func(format string, args ...any) (ReplicationParameters, error) {
		return ReplicationParameters{}, Errorf(CodeInvalidParameter, "ReplicationParameters: "+format, args...)
	}
	if n := utf8.RuneCountInString(s); n > maxReplicationParameters {
		return fail("%d characters are given; at most %d are allowed", n, maxReplicationParameters)
	}
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return fail(`%s is not a JSON object like {"bandwidth_limit":0,"compress_level":1,"checksum":true}`, quote(s))
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return fail("not JSON: %v", err)
		}
		key, ok := token.(string)
		if !ok {
			return fail("not JSON: a key is %v", token)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return fail("not JSON: the value of %s: %v", quote(key), err)
		}
		name := strings.ToLower(strings.ReplaceAll(key, "_", ""))
		if seen[name] {
			return fail("%s is given twice", quote(key))
		}
		seen[name] = true
		switch name {
		case "bandwidthlimit":
			if p.BandwidthLimitKbps, ok = wholeNumber(raw, maxBandwidthKbps); !ok {
				return fail("%s: %s is not allowed; it must be a number of kbit/s, 0 for no limit", key, quote(string(raw)))
			}
		case "compresslevel":
			level, ok := wholeNumber(raw, 9)
			if !ok {
				return fail("%s: %s is not allowed; it must be a number, 0 to 9", key, quote(string(raw)))
			}
			p.CompressLevel = int(level)
		case "checksum":
			if p.Checksum, ok = boolean(raw); !ok {
				return fail("%s: %s is not allowed; it must be true or false", key, quote(string(raw)))
			}
		case "usesshtunnel":
			// Accepted without effect: transfers go over TLS.
		default:
			p.Ignored = append(p.Ignored, key)
		}
	}
	if _, err := dec.Token(); err != nil {
		return fail("not JSON: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fail("something follows the JSON object")
	}
	return p, nil
}

// wholeNumber reads a JSON number from 0 to most without fraction or exponent.
func wholeNumber(raw json.RawMessage, most int64) (int64, bool) {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64)
	return n, err == nil && n >= 0 && n <= most
}

func boolean(raw json.RawMessage) (value, ok bool) {
	switch string(bytes.TrimSpace(raw)) {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	return false, false
}
