package smc

import (
	"strconv"
	"time"
)

// DefaultRunOnce makes a job one-time unless it says otherwise.
const DefaultRunOnce = true

// gib is a GiB in bytes.
const gib = int64(1) << 30

// Target returns the target type asked for. The request must be valid.
func (r *CreateReplicationJobRequest) Target() TargetType {
	target, err := ParseTargetType(deref(r.TargetType))
	if err != nil {
		return TargetImage
	}
	return target
}

// RunsOnce returns RunOnce with its default.
func (r *CreateReplicationJobRequest) RunsOnce() bool {
	if r.RunOnce == nil {
		return DefaultRunOnce
	}
	return *r.RunOnce
}

// ScheduledStart returns when the job is to start by itself; the zero time means by hand only. The request must be
// valid.
func (r *CreateReplicationJobRequest) ScheduledStart() time.Time {
	t, err := ParseTime(deref(r.ScheduledStartTime))
	if err != nil {
		return time.Time{}
	}
	return t
}

// Expiry returns when a job created at the given time expires; the zero time means never (ValidTime sent empty).
// The request must be valid.
func (r *CreateReplicationJobRequest) Expiry(created time.Time) time.Time {
	if r.ValidTime == nil {
		return created.UTC().Truncate(time.Second).Add(DefaultValidity)
	}
	t, err := ParseTime(*r.ValidTime)
	if err != nil {
		return time.Time{}
	}
	return t
}

// BlockOrDefault returns Block with its default, true.
func (p PartTarget) BlockOrDefault() bool { return p.Block == nil || *p.Block }

func (r *CreateReplicationJobRequest) validate(time.Time) error {
	if r.JobType != nil && *r.JobType != 0 {
		return Errorf(CodeUnsupportedFeature, "JobType: %d is offered by the vendor's cloud only; a self-hosted center migrates servers, JobType 0", *r.JobType)
	}
	if r.Disks != nil {
		return Errorf(CodeUnsupportedFeature, "Disks is not offered by a self-hosted center; use SystemDiskSize, SystemDiskPart and DataDisk")
	}
	target, err := ParseTargetType(deref(r.TargetType))
	if err != nil {
		return err
	}
	if target == TargetInstance && deref(r.InstanceID) == "" {
		return Errorf("MissingInstanceId", "InstanceId is missing: TargetType TargetInstance needs the instance to migrate to")
	}
	if target == TargetContainerImage {
		if _, err := r.ContainerReference(r.SourceID); err != nil {
			return err
		}
	}
	if err := validateNetMode(r.NetMode, r.VSwitchID); err != nil {
		return err
	}
	if !r.RunsOnce() {
		if r.Frequency == nil {
			return Errorf("MissingFrequency", "Frequency is missing: RunOnce false needs it, 1 to 168 hours")
		}
		if r.MaxNumberOfImageToKeep == nil {
			return Errorf("MissingMaxNumberOfImageToKeep", "MaxNumberOfImageToKeep is missing: RunOnce false needs it, 1 to 10")
		}
	}
	if err := validateDisks(r.SystemDiskSize, r.SystemDiskPart, r.DataDisk); err != nil {
		return err
	}
	if _, err := ParseReplicationParameters(deref(r.ReplicationParameters)); err != nil {
		return err
	}
	return validateTags(r.Tag)
}

// ValidateTimes holds ScheduledStartTime and ValidTime against the time at which the job is made. Validate leaves them out: a call that is
// repeated with its ClientToken is answered as it was, also when its times have passed since (CONTRACT: ClientToken).
func (r *CreateReplicationJobRequest) ValidateTimes(now time.Time) error {
	if err := validateScheduledStart(r.ScheduledStartTime, now); err != nil {
		return err
	}
	return ValidateValidTime(r.ValidTime, now)
}

func (r *ModifyReplicationJobAttributeRequest) validate(now time.Time) error {
	// InstanceId, VSwitchId and ValidTime may rest on what the job has already: the handler's to judge.
	if _, err := ParseTargetType(deref(r.TargetType)); err != nil {
		return err
	}
	if err := validateDisks(r.SystemDiskSize, r.SystemDiskPart, r.DataDisk); err != nil {
		return err
	}
	if _, err := ParseReplicationParameters(deref(r.ReplicationParameters)); err != nil {
		return err
	}
	return validateScheduledStart(r.ScheduledStartTime, now)
}

func (r *CreateCrossZoneMigrationJobRequest) validate(time.Time) error {
	return Errorf(CodeUnsupportedFeature, "CreateCrossZoneMigrationJob moves instances between zones of the vendor's cloud; only the vendor's endpoint can do it")
}

func (r *CreateWorkgroupRequest) validate(time.Time) error { return validateTags(r.Tag) }

func (r *TagResourcesRequest) validate(time.Time) error {
	if err := validateTags(r.Tag); err != nil {
		return err
	}
	return validateResourceIDs(r.ResourceID)
}

func (r *ListTagResourcesRequest) validate(time.Time) error {
	for i, tag := range r.Tag {
		if deref(tag.Key) == "" && deref(tag.Value) != "" {
			return Errorf(CodeInvalidParameterTagValue, "Tag.%d.Value is given without Tag.%d.Key", i+1, i+1)
		}
	}
	return validateResourceIDs(r.ResourceID)
}

func (r *UntagResourcesRequest) validate(time.Time) error { return validateResourceIDs(r.ResourceID) }

func validateNetMode(mode *int, vSwitchID *string) error {
	if mode != nil && *mode == 2 && deref(vSwitchID) == "" {
		return Errorf("MissingVSwitchId", "VSwitchId is missing: NetMode 2 needs it")
	}
	return nil
}

func validateDisks(systemSize *int, systemParts []PartTarget, disks []DataDiskTarget) error {
	if err := validateParts("SystemDiskPart", "SystemDiskSize", systemParts, systemSize); err != nil {
		return err
	}
	seen := make(map[int]int, len(disks))
	for i, disk := range disks {
		name := "DataDisk." + strconv.Itoa(i+1)
		if first, ok := seen[*disk.Index]; ok {
			return Errorf(CodeDataDiskDuplicateIndex, "%s.Index: %d is the index of DataDisk.%d already", name, *disk.Index, first)
		}
		seen[*disk.Index] = i + 1
		if err := validateParts(name+".Part", name+".Size", disk.Part, disk.Size); err != nil {
			return err
		}
	}
	return nil
}

// FitParts refuses partitions that are larger than their disk (CONTRACT: Part) in a request whose sizes are filled in.
func FitParts(r *CreateReplicationJobRequest) error {
	return validateDisks(r.SystemDiskSize, r.SystemDiskPart, r.DataDisk)
}

// validateParts checks the partitions of one disk; size, in GiB, may be absent.
func validateParts(name, sizeName string, parts []PartTarget, size *int) error {
	var sum int64
	seen := make(map[string]int, len(parts))
	for i, part := range parts {
		at := name + "." + strconv.Itoa(i+1)
		switch device := deref(part.Device); {
		case device != "" && part.SizeBytes == nil:
			return Errorf(CodeMissingParameter, "%s.SizeBytes is missing: %s.Device is given, and they go together", at, at)
		case device == "" && part.SizeBytes != nil:
			return Errorf(CodeMissingParameter, "%s.Device is missing: %s.SizeBytes is given, and they go together", at, at)
		case part.SizeBytes == nil:
			continue
		default:
			if first, ok := seen[device]; ok {
				return Errorf(CodeInvalidParameter, "%s.Device: %s is the device of %s.%d already", at, quote(device), name, first)
			}
			seen[device] = i + 1
		}
		if size != nil && *part.SizeBytes > int64(*size)*gib-sum {
			return Errorf(CodeInvalidParameter, "%s.SizeBytes: with %d bytes the partitions are larger than %s, %d GiB", at, *part.SizeBytes, sizeName, *size)
		}
		if size != nil {
			sum += *part.SizeBytes
		}
	}
	return nil
}

func validateScheduledStart(start *string, now time.Time) error {
	if deref(start) == "" {
		return nil
	}
	t, err := ParseTime(*start)
	if err != nil {
		return Errorf(CodeInvalidParameter, "ScheduledStartTime: %v", err)
	}
	if !t.After(now) || t.After(now.Add(MaxScheduleAhead)) {
		return Errorf(CodeInvalidParameter, "ScheduledStartTime: %s is not allowed; it must be after %s and not after %s", *start, FormatTime(now), FormatTime(now.Add(MaxScheduleAhead)))
	}
	return nil
}

// ValidateValidTime holds a ValidTime against the creation of its job; absent and empty are allowed.
func ValidateValidTime(validTime *string, created time.Time) error {
	if deref(validTime) == "" {
		return nil
	}
	t, err := ParseTime(*validTime)
	if err != nil {
		return Errorf(CodeInvalidParameter, "ValidTime: %v", err)
	}
	// Times of the API have no fractions of a second: the creation counts as the second it shows.
	created = created.UTC().Truncate(time.Second)
	least, most := created.Add(MinValidity), created.Add(MaxValidity)
	if t.Before(least) || t.After(most) {
		return Errorf(CodeInvalidParameter, "ValidTime: %s is not allowed; it must be 7 to 90 days after the creation, %s to %s", *validTime, FormatTime(least), FormatTime(most))
	}
	return nil
}

func validateTags(tags []TagParameter) error {
	seen := make(map[string]int, len(tags))
	for i, tag := range tags {
		key := deref(tag.Key)
		if key == "" {
			if tag.Value != nil && *tag.Value != "" {
				return Errorf(CodeInvalidParameterTagValue, "Tag.%d.Value is given without Tag.%d.Key", i+1, i+1)
			}
			return Errorf(CodeMissingParameter, "Tag.%d.Key is missing: it has 1 to 128 characters", i+1)
		}
		if first, ok := seen[key]; ok {
			return Errorf(CodeInvalidParameter, "Tag.%d.Key: %s is the key of Tag.%d already", i+1, quote(key), first)
		}
		seen[key] = i + 1
	}
	return nil
}

func validateResourceIDs(ids []string) error {
	seen := make(map[string]int, len(ids))
	for i, id := range ids {
		if first, ok := seen[id]; ok {
			return Errorf(CodeDuplicateResourceID, "ResourceId.%d: %s is given as ResourceId.%d already", i+1, quote(id), first)
		}
		seen[id] = i + 1
	}
	return nil
}

// deref returns what p points to, or "" when it is nil.
func deref(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}
