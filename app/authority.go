package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/durable"
)

// changeAuthorities edits the center's own certificate authorities. Its processes follow within a minute, and agents with their heartbeats.
func changeAuthorities(ctx context.Context, record *store.Store, edit func(ca.Authorities) (ca.Authorities, error)) error {
	if _, err := loadAuthorities(ctx, record); err != nil { // which makes the first one
		return err
	}
	return record.ChangeCertificateAuthorities(ctx, func(text string) (string, error) {
		authorities, err := ca.Parse(text)
		if err != nil {
			return "", err
		}
		if authorities, err = edit(authorities); err != nil {
			return "", err
		}
		return authorities.Encode()
	})
}

// WriteAuthorities writes the center's own certificate authorities to a file, for clients. The first one is made when there is none.
func WriteAuthorities(ctx context.Context, connections Connections, file string, log *zap.Logger) error {
	record, err := connections.openRecord(ctx, log)
	if err != nil {
		return err
	}
	defer func() { _ = record.Close() }()
	authorities, err := loadAuthorities(ctx, record)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(file, []byte(ca.EncodeCertificates(authorities.Certificates()...)), 0o644); err != nil {
		return fmt.Errorf("write the certificate authorities: %w", err)
	}
	return nil
}

// addAuthority appends a new authority: it is made known, and signs nothing yet.
func addAuthority(authorities ca.Authorities) (ca.Authorities, error) {
	if len(authorities) > 1 {
		return nil, errors.New("there are two certificate authorities already: go on with ca use, or ca drop")
	}
	authority, err := ca.New(time.Now())
	if err != nil {
		return nil, err
	}
	return append(authorities, authority), nil
}

// useLastAuthority has the last authority sign.
func useLastAuthority(authorities ca.Authorities) (ca.Authorities, error) {
	if len(authorities) < 2 {
		return nil, errors.New("there is one certificate authority only: make the next one known with ca add first, and give agents the time to hear of it")
	}
	last := len(authorities) - 1
	return slices.Concat(authorities[last:], authorities[:last]), nil
}

// dropOtherAuthorities leaves the authority that signs.
func dropOtherAuthorities(authorities ca.Authorities) (ca.Authorities, error) {
	if len(authorities) < 2 {
		return nil, errors.New("there is one certificate authority only, and it signs")
	}
	return authorities[:1], nil
}

// AuthorityCommands are the commands of drover-server that show and change the center's own certificate authorities.
func AuthorityCommands(connections Connections) []Program {
	var commands []Program
	for _, c := range []struct {
		name, about string
		edit        func(ca.Authorities) (ca.Authorities, error)
	}{
		{"show", "Prints the center's own certificate authorities as PEM, the one that signs first: what clients have to trust. The first one is made if there is none.", nil},
		{"add", "Makes a second authority and makes it known to agents by their heartbeats. It signs nothing yet.", addAuthority},
		{"use", "Has the authority that was added sign from now on. The other one stays known.", useLastAuthority},
		{"drop", "Drops the authority that does not sign: the one that ca use has replaced, or one added by mistake.", dropOtherAuthorities},
	} {
		name := "drover-server ca " + c.name
		commands = append(commands, Program{
			Name:   name,
			Usage:  fmt.Sprintf("Usage: %s [flags]\n\n%s docs/security.md says how an authority is changed.\n\nFlags:\n", name, c.about),
			Define: func(flags *pflag.FlagSet) { RecordFlags(flags, &connections) },
			Check:  func() error { return connections.checkRecord() }, //nolint:gocritic // the flags are not read yet
			Command: func(ctx context.Context, stdout, _ io.Writer, log *zap.Logger) error {
				record, err := connections.openRecord(ctx, log)
				if err != nil {
					return err
				}
				defer func() { _ = record.Close() }()
				if c.edit != nil {
					if err := changeAuthorities(ctx, record, c.edit); err != nil {
						return err
					}
				}
				authorities, err := loadAuthorities(ctx, record)
				if err != nil {
					return err
				}
				return printAuthorities(stdout, authorities)
			},
		})
	}
	return commands
}

// printAuthorities writes PEM; what stands before a block is for people.
func printAuthorities(w io.Writer, authorities ca.Authorities) error {
	for i, certificate := range authorities.Certificates() {
		does := "signs"
		if i > 0 {
			does = "is known"
		}
		if _, err := fmt.Fprintf(w, "%s: %s, until %s\nSHA-256 %v\n%s", certificate.Subject.CommonName, does,
			certificate.NotAfter.UTC().Format(time.DateOnly), ca.FingerprintOf(certificate), ca.EncodeCertificates(certificate)); err != nil {
			return err
		}
	}
	return nil
}
