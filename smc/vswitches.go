package smc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// VSwitches says in which VPC each VSwitch is, by their ids. A center that has none knows nothing of networks, and echoes
// what requests say of them.
type VSwitches map[string]string

// ParseVSwitches reads a JSON object of VSwitchIds and their VpcIds: {"vsw-1": "vpc-1"}. One that is given twice with
// different VPCs is refused.
func ParseVSwitches(data []byte) (VSwitches, error) {
	fail := func(reason string, args ...any) (VSwitches, error) {
		return nil, fmt.Errorf(`not a JSON object of VSwitchIds and their VpcIds, like {"vsw-1": "vpc-1"}: `+reason, args...)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	token, err := dec.Token()
	if err != nil {
		return fail("%w", err)
	}
	if token != json.Delim('{') {
		return fail("it begins with %v", token)
	}
	v := VSwitches{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return fail("%w", err)
		}
		var vpcID string
		if err := dec.Decode(&vpcID); err != nil {
			return fail("the VPC of %v: %w", key, err)
		}
		vSwitchID, _ := key.(string)
		if vSwitchID == "" || vpcID == "" {
			return fail("an id is empty")
		}
		if other, ok := v[vSwitchID]; ok && other != vpcID {
			return fail("%s is in both %s and %s", vSwitchID, other, vpcID)
		}
		v[vSwitchID] = vpcID
	}
	if _, err := dec.Token(); err != nil {
		return fail("%w", err)
	}
	if dec.More() {
		return fail("something follows the object")
	}
	if len(v) == 0 {
		return nil, errors.New("it names no VSwitch: leave the list away to have none checked")
	}
	return v, nil
}

// Check holds a VSwitchId and a VpcId, either of which may be empty, against the list: the VSwitch must be in the list and
// in the VPC. The error is a VSwitchIdVpcId.Mismatch. A list that is nil allows everything.
func (v VSwitches) Check(vSwitchID, vpcID string) error {
	if v == nil || vSwitchID == "" && vpcID == "" {
		return nil
	}
	if vSwitchID == "" {
		for _, known := range v {
			if known == vpcID {
				return nil
			}
		}
		return Errorf(CodeVSwitchIDVpcIDMismatch, "VpcId: the network list of this center has no VSwitch in %s", quote(vpcID))
	}
	switch known, ok := v[vSwitchID]; {
	case !ok:
		return Errorf(CodeVSwitchIDVpcIDMismatch, "VSwitchId: %s is not in the network list of this center", quote(vSwitchID))
	case vpcID != "" && vpcID != known:
		return Errorf(CodeVSwitchIDVpcIDMismatch, "VSwitchId: %s is in %s, not in the VpcId %s", quote(vSwitchID), known, quote(vpcID))
	}
	return nil
}
