package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Away reports whether an error, such as Open's, says that the database server does not answer at present: it is not reached, starts, stops
// or has no connection left. Any other error, such as that of a wrong password or a database that does not exist, lasts until a person mends
// it. What becomes of a file is no such error.
func Away(err error) bool {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		switch said.Code {
		case "57P01", "57P02", "57P03", "53300": // admin_shutdown, crash_shutdown, cannot_connect_now, too_many_connections
			return true
		}
		return strings.HasPrefix(said.Code, "08") // connection exceptions
	}
	var network *net.OpError
	var name *net.DNSError // that of a container has no address while it is down
	return errors.As(err, &network) || errors.As(err, &name) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, driver.ErrBadConn)
}
