// Package settings keeps what a development stack needs to be the same at its next start: ports and generated secrets.
package settings

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/drover/drover/durable"
)

const (
	// DefaultListen is where the endpoint listens when nothing else was ever asked for.
	DefaultListen = "127.0.0.1:7700"

	fileName = "dev.json"
	loopback = "127.0.0.1"
	region   = "local-1"
)

// Settings are kept in DIR/dev.json, readable by the owner only. All of it may be edited while the stack is down.
type Settings struct {
	// Listen is the host and port of the endpoint.
	Listen string `json:"listen"`
	// TLS says that the endpoint and the transition host serve https.
	TLS bool `json:"tls,omitempty"`
	// Ports of the other servers, on 127.0.0.1.
	Ports Ports `json:"ports"`
	// Region and AccountID are what the center says it is.
	Region    string `json:"region"`
	AccountID string `json:"accountId"`
	// AccessKeyID and AccessKeySecret sign requests to the endpoint.
	AccessKeyID     string `json:"accessKeyId"`
	AccessKeySecret string `json:"accessKeySecret"`
}

// Ports of a development stack.
type Ports struct {
	Temporal   int `json:"temporal"`
	NATS       int `json:"nats"`
	Transition int `json:"transition"`
}

// Serves says which servers the process that loads the settings will run: it needs their ports. Others of the same data directory are
// run by other processes.
type Serves struct {
	Endpoint, Temporal, NATS, Transition bool
	// TLS is what the user asked for; nil keeps what is kept.
	TLS *bool
}

// Load reads the settings kept in dir, completes what is missing, and writes them back when that changed them. Processes that share dir
// must not do so at the same time.
//
// listen is what the user asked for, or empty: then what is kept holds, or DefaultListen at the first start. Its port 0 asks for a free
// port, chosen once: a restart with port 0 gets the same one. Every port of what is served is checked: one that is taken is an error that
// names it.
func Load(dir, listen string, serves Serves) (*Settings, error) {
	path := filepath.Join(dir, fileName)
	s := &Settings{}
	kept, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the settings: %w", err)
	default:
		dec := json.NewDecoder(bytes.NewReader(kept))
		dec.DisallowUnknownFields()
		if err := dec.Decode(s); err != nil {
			return nil, fmt.Errorf("read the settings in %s: %w; mend the file, or remove it to have new ports and keys made", path, err)
		}
	}

	if serves.TLS != nil {
		s.TLS = *serves.TLS
	}
	if err := s.claimPorts(path, listen, serves); err != nil {
		return nil, err
	}
	if err := s.generate(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the settings: %w", err)
	}
	text = append(text, '\n')
	if bytes.Equal(text, kept) {
		return s, nil
	}
	if err := durable.WriteFile(path, text, 0o600); err != nil {
		return nil, fmt.Errorf("keep the settings: %w", err)
	}
	return s, nil
}

// Endpoint is the URL under which clients on this machine reach the endpoint.
func (s *Settings) Endpoint() string {
	scheme := "http://"
	if s.TLS {
		scheme = "https://"
	}
	listen := s.Listen
	if listen == "" {
		listen = DefaultListen // it was never served here
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return scheme + listen // Load has checked it
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = loopback
	}
	return scheme + net.JoinHostPort(host, port)
}

// TemporalAddress is the host and port of the Temporal frontend.
func (s *Settings) TemporalAddress() string { return onLoopback(s.Ports.Temporal) }

// NATSURL is what NATS clients connect to.
func (s *Settings) NATSURL() string { return "nats://" + onLoopback(s.Ports.NATS) }

// TransitionListen is the host and port of the transition host.
func (s *Settings) TransitionListen() string { return onLoopback(s.Ports.Transition) }

// claimPorts settles every port. They are held until all are settled, so that none is given out twice, and free when it returns. A port
// that was never settled is chosen whoever serves it, so that all processes of a data directory know it from the first one on.
func (s *Settings) claimPorts(path, listen string, serves Serves) error {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	claim := func(what, host string, port int, hint string) (int, error) {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return 0, fmt.Errorf("port %d of %s is not to be had: %w; %s", port, what, err, hint)
		}
		held = append(held, l)
		return l.Addr().(*net.TCPAddr).Port, nil
	}

	if serves.Endpoint {
		host, port, err := s.wanted(listen)
		if err != nil {
			return err
		}
		port, err = claim("the endpoint", host, port, "stop what uses it, or choose another with --listen HOST:PORT (port 0 takes a free one)")
		if err != nil {
			return err
		}
		s.Listen = net.JoinHostPort(host, strconv.Itoa(port))
	}
	for _, p := range []struct {
		what   string
		port   *int
		served bool
	}{
		{"Temporal", &s.Ports.Temporal, serves.Temporal},
		{"NATS", &s.Ports.NATS, serves.NATS},
		{"the transition host", &s.Ports.Transition, serves.Transition},
	} {
		if !p.served && *p.port != 0 {
			continue
		}
		hint := "stop what uses it, or set it to 0 in " + path + " to take a free one"
		var err error
		if *p.port, err = claim(p.what, loopback, *p.port, hint); err != nil {
			return err
		}
	}
	return nil
}

// wanted is where the endpoint shall listen; port 0 means any.
func (s *Settings) wanted(listen string) (host string, port int, err error) {
	asked := listen
	if asked == "" {
		asked = s.Listen
	}
	if asked == "" {
		asked = DefaultListen
	}
	host, port, err = splitAddress(asked)
	if err != nil {
		return "", 0, err
	}
	if port == 0 && s.Listen != "" {
		if keptHost, keptPort, err := splitAddress(s.Listen); err == nil && keptHost == host {
			port = keptPort
		}
	}
	return host, port, nil
}

func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("listen address %q is not HOST:PORT: %w", address, err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("listen address %q: port %q is not a number from 0 to 65535", address, text)
	}
	return host, int(n), nil
}

// generate makes what is not there yet.
func (s *Settings) generate() error {
	const (
		digits = "0123456789"
		mixed  = digits + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	)
	for _, g := range []struct {
		field    *string
		prefix   string
		alphabet string
		length   int
	}{
		{&s.AccountID, "1", digits, 15},
		{&s.AccessKeyID, "LTAI", mixed, 20},
		{&s.AccessKeySecret, "", mixed, 30},
	} {
		if *g.field != "" {
			continue
		}
		text, err := randomText(g.alphabet, g.length)
		if err != nil {
			return err
		}
		*g.field = g.prefix + text
	}
	if s.Region == "" {
		s.Region = region
	}
	return nil
}

func randomText(alphabet string, n int) (string, error) {
	var b strings.Builder
	for range n {
		i, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return "", fmt.Errorf("generate a secret: %w", err)
		}
		b.WriteByte(alphabet[i.Int64()])
	}
	return b.String(), nil
}

func onLoopback(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
