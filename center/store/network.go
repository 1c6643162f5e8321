package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/drover/drover/smc"
)

// vSwitchesName is the setting that holds the network list.
const vSwitchesName = "vswitches"

// SetVSwitches stores the list that VSwitchIds and VpcIds are held against, for all processes on the database; nil has
// them echoed. Jobs that are there already keep what they have.
func (s *Store) SetVSwitches(ctx context.Context, list smc.VSwitches) error {
	encoded, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *transaction) error {
		if list == nil {
			_, err := tx.ExecContext(ctx, `DELETE FROM settings WHERE name = ?`, vSwitchesName)
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, vSwitchesName, string(encoded))
		return err
	})
}

// placeInNetwork holds a job's VSwitchId and VpcId against the network list, and fills in the VpcId that follows from
// the VSwitchId. The error is a VSwitchIdVpcId.Mismatch.
func placeInNetwork(ctx context.Context, tx *transaction, spec *smc.CreateReplicationJobRequest) error {
	if value(spec.VSwitchID) == "" && value(spec.VpcID) == "" {
		return nil
	}
	var encoded string
	err := tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, vSwitchesName).Scan(&encoded)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	var list smc.VSwitches
	if err := json.Unmarshal([]byte(encoded), &list); err != nil {
		return fmt.Errorf("the network list in the database: %w", err)
	}
	if err := list.Check(value(spec.VSwitchID), value(spec.VpcID)); err != nil {
		return err
	}
	if vpcID := list[value(spec.VSwitchID)]; vpcID != "" {
		spec.VpcID = &vpcID
	}
	return nil
}
