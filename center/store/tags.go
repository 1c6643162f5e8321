package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/drover/drover/smc"
)

// MaxTags is how many tags a resource may have (CONTRACT: Tags).
const MaxTags = 20

// resourceTypeWorkgroup is the type under which the tags of a workgroup are kept; the tag operations do not know it.
const resourceTypeWorkgroup = "workgroup"

// ResourceTag is a tag of a resource.
type ResourceTag struct{ ResourceType, ResourceID, Key, Value string }

// resourceTable names the table and the id column of a resource type.
func resourceTable(resourceType string) (table, id string) {
	if resourceType == smc.ResourceTypeReplicationJob {
		return "replication_jobs", "job_id"
	}
	return "source_servers", "source_id"
}

// reader is a *database or a *transaction. What is wrong with a row is said when it is scanned.
type reader interface {
	QueryContext(ctx context.Context, query string, args ...any) (*rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) rowScanner
}

// requireResources refuses ids the account does not have.
func requireResources(ctx context.Context, from reader, accountID, resourceType string, ids []string) error {
	table, column := resourceTable(resourceType)
	for _, id := range ids {
		var n int
		if err := from.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+table+` WHERE account_id = ? AND `+column+` = ?`, accountID, id).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return smc.Errorf(smc.CodeInvalidResourceIDNotFound, "there is no %s %s", resourceType, id)
		}
	}
	return nil
}

// TagResources attaches tags to resources; a key that is there takes the new value. All or nothing: a resource that
// would have more than MaxTags refuses the whole call with NumberExceed.Tags.
func (s *Store) TagResources(ctx context.Context, accountID, resourceType string, ids []string, tags []smc.Tag) error {
	return s.write(ctx, func(tx *transaction) error {
		if err := requireResources(ctx, tx, accountID, resourceType, ids); err != nil {
			return err
		}
		for _, id := range ids {
			if err := putTags(ctx, tx, accountID, resourceType, id, tags); err != nil {
				return err
			}
		}
		return nil
	})
}

func putTags(ctx context.Context, tx *transaction, accountID, resourceType, id string, tags []smc.Tag) error {
	for _, tag := range tags {
		if err := tx.later(ctx, nil, `INSERT INTO tags (account_id, resource_type, resource_id, tag_key, tag_value) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (resource_id, tag_key) DO UPDATE SET tag_value = excluded.tag_value`, accountID, resourceType, id, tag.Key, tag.Value); err != nil {
			return err
		}
	}
	if len(tags) == 0 {
		return nil
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM tags WHERE resource_id = ?`, id).Scan(&n); err != nil {
		return err
	}
	if n > MaxTags {
		return smc.Errorf(smc.CodeNumberExceedTags, "%s %s would have %d tags; %d are allowed", resourceType, id, n, MaxTags)
	}
	return nil
}

// UntagResources takes tags away: the keys given, or every tag when none is.
func (s *Store) UntagResources(ctx context.Context, accountID, resourceType string, ids, keys []string) error {
	return s.write(ctx, func(tx *transaction) error {
		if err := requireResources(ctx, tx, accountID, resourceType, ids); err != nil {
			return err
		}
		where := ofAccount(accountID)
		where.in("resource_id", ids)
		where.in("tag_key", keys)
		_, err := tx.ExecContext(ctx, `DELETE FROM tags`+where.String(), where.args...)
		return err
	})
}

// ErrBadToken is returned for a NextToken that no page of this listing gave.
var ErrBadToken = errors.New("the NextToken is not one of this listing")

// ResourceTags lists tags of an account's resources in a stable order, after the position of next, limit at most; it
// returns the position to go on from, empty on the last page. tags filters: a resource must have all of them.
func (s *Store) ResourceTags(ctx context.Context, accountID, resourceType string, ids []string, tags []smc.TagFilter, next string, limit int) ([]ResourceTag, string, error) {
	if err := requireResources(ctx, s.db, accountID, resourceType, ids); err != nil {
		return nil, "", err
	}
	where := ofAccount(accountID)
	where.equal("resource_type", resourceType)
	where.in("resource_id", ids)
	where.tagged("tags.resource_id", tags)
	if next != "" {
		id, key, ok := strings.Cut(next, "\n")
		if !ok || !utf8.ValidString(next) || strings.ContainsRune(next, 0) {
			return nil, "", ErrBadToken
		}
		where.clauses = append(where.clauses, "(resource_id > ? OR resource_id = ? AND tag_key > ?)")
		where.args = append(where.args, id, id, key)
	}
	rows, err := s.db.QueryContext(ctx, `SELECT resource_type, resource_id, tag_key, tag_value FROM tags`+where.String()+` ORDER BY resource_id, tag_key LIMIT ?`,
		append(where.args, limit+1)...)
	if err != nil {
		return nil, "", err
	}
	found, err := collect(rows, func(row rowScanner) (tag ResourceTag, err error) {
		return tag, row.Scan(&tag.ResourceType, &tag.ResourceID, &tag.Key, &tag.Value)
	})
	if err != nil || len(found) <= limit {
		return found, "", err
	}
	found = found[:limit]
	last := found[limit-1]
	return found, last.ResourceID + "\n" + last.Key, nil
}

// Tags returns the tags of resources, by resource id, in the order of their keys.
func (s *Store) Tags(ctx context.Context, ids []string) (map[string][]smc.Tag, error) {
	return tagsOf(ctx, s.db, ids)
}

func tagsOf(ctx context.Context, from reader, ids []string) (map[string][]smc.Tag, error) {
	ctx = toEnd(ctx)
	tags := map[string][]smc.Tag{}
	for chunk := range slices.Chunk(ids, 500) {
		where := &conditions{}
		where.in("resource_id", chunk)
		rows, err := from.QueryContext(ctx, `SELECT resource_type, resource_id, tag_key, tag_value FROM tags`+where.String()+` ORDER BY resource_id, tag_key`, where.args...)
		if err != nil {
			return nil, err
		}
		found, err := collect(rows, func(row rowScanner) (tag ResourceTag, err error) {
			return tag, row.Scan(&tag.ResourceType, &tag.ResourceID, &tag.Key, &tag.Value)
		})
		if err != nil {
			return nil, err
		}
		for _, tag := range found {
			tags[tag.ResourceID] = append(tags[tag.ResourceID], smc.Tag{Key: tag.Key, Value: tag.Value})
		}
	}
	return tags, nil
}

// tagged keeps rows whose resource has every one of the tags; a filter without a value matches any.
func (c *conditions) tagged(column string, tags []smc.TagFilter) {
	for _, tag := range tags {
		clause := `EXISTS (SELECT 1 FROM tags t WHERE t.resource_id = ` + column + ` AND t.tag_key = ?`
		c.args = append(c.args, value(tag.Key))
		if tag.Value != nil {
			clause += ` AND t.tag_value = ?`
			c.args = append(c.args, *tag.Value)
		}
		c.clauses = append(c.clauses, clause+")")
	}
}

// forget removes what hangs on a resource that is gone.
func forgetTags(ctx context.Context, tx *transaction, id string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM tags WHERE resource_id = ?`, id); err != nil {
		return fmt.Errorf("delete the tags of %s: %w", id, err)
	}
	return nil
}
