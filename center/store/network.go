package store

import (
	"context"
	"encoding/json"
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
			return deleteSetting(ctx, tx, vSwitchesName)
		}
		return writeSetting(ctx, tx, vSwitchesName, string(encoded))
	})
}

// placeInNetwork holds a job's VSwitchId and VpcId against the network list, and fills in the VpcId that follows from
// the VSwitchId, once what it asks is answered. The error is a VSwitchIdVpcId.Mismatch.
func placeInNetwork(a *asking, spec *smc.CreateReplicationJobRequest) (answer func() error) {
	if value(spec.VSwitchID) == "" && value(spec.VpcID) == "" {
		return func() error { return nil }
	}
	var list smc.VSwitches
	known := false
	a.ask(func(row rowScanner) error {
		var encoded string
		if err := row.Scan(&encoded); err != nil {
			return err
		}
		known = true
		if err := json.Unmarshal([]byte(encoded), &list); err != nil {
			return fmt.Errorf("the network list in the database: %w", err)
		}
		return nil
	}, `SELECT value FROM settings WHERE name = ?`, vSwitchesName)
	return func() error {
		if !known {
			return nil
		}
		if err := list.Check(value(spec.VSwitchID), value(spec.VpcID)); err != nil {
			return err
		}
		if vpcID := list[value(spec.VSwitchID)]; vpcID != "" {
			spec.VpcID = &vpcID
		}
		return nil
	}
}
