package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// hashSecret is how activation codes and agent tokens are kept: both are long random strings, so a plain SHA-256
// cannot be reversed.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// UseNonce records a signature nonce until expires and reports whether it was new.
func (s *Store) UseNonce(ctx context.Context, accessKeyID, nonce string, expires time.Time) (bool, error) {
	var one int
	return s.db.writeRow(ctx, []any{&one}, `INSERT INTO nonces (access_key_id, nonce, expires_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1`,
		accessKeyID, nonce, millis(expires))
}

// UseNonceOf is UseNonce for who knows the access key already, as AccessKey returned it: the nonce is recorded only while the key
// is that, and not disabled. Else, and when the nonce was used, it reports false. changes are JobChanges of the key's account.
func (s *Store) UseNonceOf(ctx context.Context, key AccessKey, nonce string, expires time.Time) (changes int64, fresh bool, err error) {
	fresh, err = s.db.writeRow(ctx, []any{&changes}, `INSERT INTO nonces (access_key_id, nonce, expires_at)
		SELECT access_key_id, CAST(? AS TEXT), CAST(? AS BIGINT) FROM access_keys WHERE access_key_id = ? AND secret = ? AND account_id = ? AND policy = ? AND disabled = 0
		ON CONFLICT DO NOTHING RETURNING (`+jobChanges+`)`,
		nonce, millis(expires), key.AccessKeyID, key.stored, key.AccountID, key.Policy, key.AccountID)
	return changes, fresh, err
}

// ForgetNonces drops the nonces that have expired.
func (s *Store) ForgetNonces(ctx context.Context) error {
	_, err := s.deleteAll(ctx, `DELETE FROM nonces WHERE (access_key_id, nonce) IN (SELECT access_key_id, nonce FROM nonces WHERE expires_at < ? ORDER BY expires_at LIMIT ?)`,
		millis(s.now()))
	return err
}

// CreateAccessToken stores an activation code's record; code is kept as a hash.
func (s *Store) CreateAccessToken(ctx context.Context, token AccessToken, code string) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO access_tokens
			(access_token_id, account_id, region_id, name, description, code_hash, max_count, ttl_days, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			token.AccessTokenID, token.AccountID, token.RegionID, token.Name, token.Description, hashSecret(code), token.Count, token.TTLDays, millis(s.now()))
		return err
	})
}

// RegisterSource registers a source server with an activation code and returns it. agentToken is what the agent will
// authenticate with from now on; it is kept as a hash. A repeated instance gets the source it made again with the new token, so that
// an answer lost on the way leaves no second source. Errors are *smc.Error: InvalidActivationCode (unknown, disabled,
// expired or used up), SourceServerName.Duplicate, QuotaExceeded.SourceServer.
func (s *Store) RegisterSource(ctx context.Context, code, agentToken, instance, name string, server agentapi.Server, quota int) (*Source, error) {
	description, err := json.Marshal(server)
	if err != nil {
		return nil, err
	}
	var source *Source
	err = s.writeEvents(ctx, func(tx *transaction) error {
		source = &Source{
			SourceID: NewID("s"), Name: name, State: smc.SourceAvailable, Server: server,
			CreatedAt: s.now().UTC(), HeartbeatAt: s.now().UTC(),
		}
		token, err := s.activation(ctx, tx, code)
		if err != nil {
			return err
		}
		source.AccountID, source.RegionID = token.AccountID, token.RegionID
		registered, err := s.reregister(ctx, tx, source.AccountID, instance, name, agentToken)
		if err != nil {
			return err
		}
		if registered != nil {
			source = registered
			return nil
		}
		if err := useUp(ctx, tx, token); err != nil {
			return err
		}
		var sources int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM source_servers WHERE account_id = ?`, source.AccountID).Scan(&sources); err != nil {
			return err
		}
		if sources >= quota {
			return smc.Errorf(smc.CodeQuotaExceededSourceServer, "account %s has %d source servers and may have %d: delete one first", source.AccountID, sources, quota)
		}
		n, err := rowsAffected(tx.ExecContext(ctx, `INSERT INTO source_servers
			(source_id, account_id, region_id, name, state, server, token_hash, instance, heartbeat_at, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (account_id, name) DO NOTHING`,
			source.SourceID, source.AccountID, source.RegionID, name, string(source.State), string(description), hashSecret(agentToken), instance,
			millis(source.HeartbeatAt), millis(source.CreatedAt)))
		if err != nil {
			return fmt.Errorf("insert source: %w", err)
		}
		if n == 0 {
			return smc.Errorf(smc.CodeSourceServerNameDuplicate, "a source server named %q is registered already: give the agent another --name, or start it with the --state folder it had", name)
		}
		return s.sourceEvent(ctx, tx, events.SourceRegistered, source, "")
	})
	if err != nil {
		return nil, err
	}
	return source, nil
}

// activation returns the activation code of a registration. One that is unknown, disabled or expired is refused with InvalidActivationCode.
func (s *Store) activation(ctx context.Context, tx *transaction, code string) (*AccessToken, error) {
	token, err := scanAccessToken(tx.QueryRowContext(ctx, selectAccessToken+` WHERE code_hash = ?`, hashSecret(code)))
	if errors.Is(err, ErrNotFound) {
		return nil, smc.Errorf(smc.CodeInvalidActivationCode, "the activation code is not known to this center: check that it was copied whole, or make a new one with CreateAccessToken")
	}
	if err != nil {
		return nil, err
	}
	switch token.Status(s.now()) {
	case smc.AccessTokenUnactivated:
		return nil, smc.Errorf(smc.CodeInvalidActivationCode, "the activation code %s was disabled: make a new one with CreateAccessToken", token.AccessTokenID)
	case smc.AccessTokenExpired:
		return nil, smc.Errorf(smc.CodeInvalidActivationCode, "the activation code %s expired after its %d days: make a new one with CreateAccessToken", token.AccessTokenID, token.TTLDays)
	case smc.AccessTokenActivated:
	}
	return token, nil
}

// useUp counts a registration with an activation code, or refuses it with InvalidActivationCode.
func useUp(ctx context.Context, tx *transaction, token *AccessToken) error {
	if token.RegisteredCount >= token.Count {
		return smc.Errorf(smc.CodeInvalidActivationCode, "the activation code %s has made its %d registrations: make a new one with CreateAccessToken", token.AccessTokenID, token.Count)
	}
	_, err := tx.ExecContext(ctx, `UPDATE access_tokens SET registered_count = registered_count + 1 WHERE access_token_id = ?`, token.AccessTokenID)
	return err
}

// reregister hands a new agent token to the source that instance registered before; nil when there is none.
func (s *Store) reregister(ctx context.Context, tx *transaction, accountID, instance, name, agentToken string) (*Source, error) {
	source, err := scanSource(tx.QueryRowContext(ctx, selectSource+` WHERE account_id = ? AND instance = ?`, accountID, instance))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if source.Name != name {
		return nil, smc.Errorf(smc.CodeSourceServerNameDuplicate, "this agent is registered as %q already, not as %q: start it with that name", source.Name, name)
	}
	_, err = tx.ExecContext(ctx, `UPDATE source_servers SET token_hash = ? WHERE source_id = ?`, hashSecret(agentToken), source.SourceID)
	return source, err
}
