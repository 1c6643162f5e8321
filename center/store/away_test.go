package store

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/tcp/port"
)

func TestAway(t *testing.T) {
	said := func(code string) error { return fmt.Errorf("open: %w", &pgconn.PgError{Code: code}) }
	for _, err := range []error{
		said("57P03"), said("53300"), said("08006"), fmt.Errorf("connect: %w", io.ErrUnexpectedEOF),
		&net.DNSError{Err: "no such host", IsNotFound: true},
	} {
		require.True(t, Away(err), "%v", err)
	}
	for _, err := range []error{nil, said("28P01"), said("3D000"), said("42501"), ErrNotOpened} {
		require.False(t, Away(err), "%v", err)
	}

	_, err := Open(t.Context(), "postgres://drover@"+port.ForTest(t)+"/drover")
	require.True(t, Away(err), "%v", err)
	_, err = Open(t.Context(), "sqlite:///dev/null/center.db")
	require.Error(t, err)
	require.False(t, Away(err), "what becomes of a file is for a person: %v", err)
}
