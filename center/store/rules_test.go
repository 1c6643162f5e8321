package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/smc"
)

// What a source runs decides what it can be migrated to.
func TestTargetsOfSystems(t *testing.T) {
	f := newFixture(t)
	for _, test := range []struct {
		platform, architecture, target, code string
	}{
		{"Ubuntu", "x86_64", "Image", ""},
		{"Ubuntu", "x86_64", "ContainerImage", ""},
		{"Ubuntu", "amd64", "containerimage", ""},
		{"Ubuntu", "aarch64", "ContainerImage", smc.CodeInvalidOsMigrationTypeNotMatched},
		{"Ubuntu", "i386", "containerimage", smc.CodeInvalidOsMigrationTypeNotMatched},
		{"Ubuntu", "aarch64", "TargetInstance", smc.CodeInvalidInstanceIDNotFound},
		{"Windows Server 2019", "x86_64", "ContainerImage", smc.CodeInvalidOsMigrationTypeNotMatched},
		{"Windows Server 2019", "x86_64", "TargetInstance", smc.CodeInvalidOsMigrationTypeNotMatched},
		{"Windows Server 2019", "x86_64", "Image", ""},
	} {
		name := test.platform + test.architecture + test.target
		server := diskServer(20 << 30)
		server.Platform, server.Architecture = test.platform, test.architecture
		source, err := f.RegisterSource(f.ctx, f.code(1), "token of "+name, "instance of "+name, name, server, 100)
		require.NoError(t, err)
		r := spec(source.SourceID)
		r.TargetType, r.InstanceID = &test.target, pointer("i-1")
		made, err := f.CreateJob(f.ctx, account, r, 1000)
		require.Equal(t, test.code, smc.CodeOf(err), "%+v: %v", test, err)
		if test.code == "" {
			require.Equal(t, r.Target(), f.job(made).Spec.Target())
			continue
		}
		// Modify is held to the same.
		id := f.create(spec(source.SourceID))
		_, err = f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, TargetType: &test.target, InstanceID: pointer("i-1")})
		require.Equal(t, test.code, smc.CodeOf(err), "%+v: %v", test, err)
		require.Nil(t, f.job(id).Spec.TargetType)
	}
}

// A data disk that is asked for without a size has that of the source.
func TestSizesOfDataDisks(t *testing.T) {
	f := newFixture(t)
	source, err := f.RegisterSource(f.ctx, f.code(1), "t", "i", "web", agentapi.Server{Disks: []agentapi.Disk{
		{Index: 0, SizeBytes: 20 << 30}, {Index: 1, SizeBytes: 30<<30 + 1}, {Index: 2, SizeBytes: 1 << 30},
	}}, 10)
	require.NoError(t, err)
	r := spec(source.SourceID)
	r.DataDisk = []smc.DataDiskTarget{{Index: pointer(2)}, {Index: pointer(1)}}
	id := f.create(r)
	disks := f.job(id).Spec.DataDisk
	require.Equal(t, 20, *disks[0].Size, "at least 20 GiB")
	require.Equal(t, 31, *disks[1].Size, "rounded up")
	_, err = f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, SystemDiskPart: []smc.PartTarget{{Device: pointer("0_0"), SizeBytes: pointer(int64(21 << 30))}}})
	require.Equal(t, smc.CodeInvalidParameter, smc.CodeOf(err), "%v", err)
	_, err = f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, SystemDiskSize: pointer(21), SystemDiskPart: []smc.PartTarget{{Device: pointer("0_0"), SizeBytes: pointer(int64(21 << 30))}}})
	require.NoError(t, err)
}

func TestNetworkList(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	in := func(vSwitchID, vpcID string) smc.CreateReplicationJobRequest {
		r := spec(source.SourceID)
		if vSwitchID != "" {
			r.VSwitchID = &vSwitchID
		}
		if vpcID != "" {
			r.VpcID = &vpcID
		}
		return r
	}
	free := func(id string) {
		t.Helper()
		require.NoError(t, f.BeginDelete(f.ctx, id, "delete"))
		require.NoError(t, f.EndDelete(f.ctx, id, "deleted"))
	}
	echoed := f.create(in("vsw-any", "vpc-any"))
	require.Equal(t, "vpc-any", *f.job(echoed).Spec.VpcID, "without a list what is given is echoed")

	other := f.open() // another process: the list is every process's
	require.NoError(t, other.SetVSwitches(f.ctx, smc.VSwitches{"vsw-1": "vpc-1", "vsw-2": "vpc-2"}))
	_, err := f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: echoed, InstanceType: pointer("large")})
	require.NoError(t, err, "what is there stays")
	free(echoed)
	for _, wrong := range [][2]string{{"vsw-any", ""}, {"vsw-1", "vpc-2"}, {"", "vpc-3"}} {
		_, err := f.CreateJob(f.ctx, account, in(wrong[0], wrong[1]), 1000)
		require.Equal(t, smc.CodeVSwitchIDVpcIDMismatch, smc.CodeOf(err), "%v: %v", wrong, err)
	}
	r := in("vsw-1", "")
	r.ClientToken = pointer("token")
	id := f.create(r)
	require.Equal(t, "vpc-1", *f.job(id).Spec.VpcID, "the VPC follows from the VSwitch")
	modify := func(vSwitchID, vpcID *string) error {
		_, err := f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, VSwitchID: vSwitchID, VpcID: vpcID})
		return err
	}
	require.NoError(t, modify(pointer("vsw-2"), nil))
	require.Equal(t, "vpc-2", *f.job(id).Spec.VpcID)
	require.Equal(t, smc.CodeVSwitchIDVpcIDMismatch, smc.CodeOf(modify(nil, pointer("vpc-1"))), "it has vsw-2")
	require.Equal(t, smc.CodeVSwitchIDVpcIDMismatch, smc.CodeOf(modify(pointer("vsw-3"), nil)))
	require.Equal(t, "vsw-2", *f.job(id).Spec.VSwitchID)
	require.NoError(t, modify(pointer("vsw-1"), pointer("vpc-1")))

	// The same call gives the same job, whatever became of the list.
	require.NoError(t, f.SetVSwitches(f.ctx, smc.VSwitches{"vsw-9": "vpc-9"}))
	require.Equal(t, id, f.create(r))
	free(id)
	require.NoError(t, f.SetVSwitches(f.ctx, nil))
	require.NoError(t, f.SetVSwitches(f.ctx, nil))
	f.create(in("vsw-1", "vpc-2"))
}

// A token is remembered for 7 days, past the job's deletion, and is as new after them.
func TestClientTokensAreForgotten(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	r := spec(source.SourceID)
	r.ClientToken = pointer("token")
	first := f.create(r)
	group := func() string {
		t.Helper()
		id, err := f.CreateWorkgroup(f.ctx, Workgroup{AccountID: account, Name: NewID("wave")}, "token", "digest", nil)
		require.NoError(t, err)
		return id
	}
	wave := group()
	require.NoError(t, f.BeginDelete(f.ctx, first, "delete"))
	require.NoError(t, f.EndDelete(f.ctx, first, "deleted"))
	f.clock.advance(7*24*time.Hour - time.Millisecond)
	forgotten, err := f.ForgetClientTokens(f.ctx)
	require.NoError(t, err)
	require.Zero(t, forgotten)
	require.Equal(t, first, f.create(r))
	require.Equal(t, wave, group())

	f.clock.advance(time.Millisecond)
	second := f.create(r)
	require.NotEqual(t, first, second)
	require.Equal(t, second, f.create(r), "the token is the new job's now")
	require.NotEqual(t, wave, group())
	f.clock.advance(7 * 24 * time.Hour)
	forgotten, err = f.ForgetClientTokens(f.ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, forgotten)
	var left int
	require.NoError(t, f.db.QueryRowContext(f.ctx, `SELECT COUNT(*) FROM client_tokens`).Scan(&left))
	require.Zero(t, left)
}

// Of many that use a token again after it was forgotten one makes something new.
func TestConcurrentForgottenToken(t *testing.T) {
	f := newFixture(t)
	create := func(s *Store, name string) (string, error) {
		return s.CreateWorkgroup(f.ctx, Workgroup{AccountID: account, Name: name}, "token", "digest", nil)
	}
	first, err := create(f.Store, "old")
	require.NoError(t, err)
	f.clock.advance(8 * 24 * time.Hour)
	ids := make([]string, creators)
	require.Equal(t, map[string]int{"": creators}, f.together(creators, func(s *Store, i int) (err error) {
		ids[i], err = create(s, "new")
		return err
	}))
	for _, id := range ids {
		require.Equal(t, ids[0], id)
		require.NotEqual(t, first, id)
	}
}

func TestRecordVerification(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	id := f.create(spec(source.SourceID))
	f.run(id, smc.TriggerStart)
	image := func() *Image {
		t.Helper()
		images, _, err := f.Images(f.ctx, account, ImageFilter{JobID: id}, Page{1, 10})
		require.NoError(t, err)
		require.Len(t, images, 1)
		return images[0]
	}
	require.Empty(t, image().Verification)
	require.Zero(t, image().VerifiedAt)
	require.NoError(t, f.RecordVerification(f.ctx, image().ImageID, smc.VerificationNotPassed, "disk 0: 1 bad grains"))
	require.Equal(t, smc.VerificationNotPassed, image().Verification)
	require.Equal(t, "disk 0: 1 bad grains", image().VerificationInfo)
	f.clock.advance(time.Hour)
	require.NoError(t, f.RecordVerification(f.ctx, image().ImageID, smc.VerificationPassed, ""))
	require.Equal(t, smc.VerificationPassed, image().Verification, "the last one counts")
	require.Empty(t, image().VerificationInfo)
	require.Equal(t, f.clock.read(), image().VerifiedAt)
	require.NoError(t, f.RecordVerification(f.ctx, "m-gone", smc.VerificationPassed, ""))
}
