package store

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func TestContainerImageRecord(t *testing.T) {
	f := newFixture(t)
	server := diskServer(20 << 30)
	server.Platform, server.Architecture = "Debian", "x86_64"
	source, err := f.RegisterSource(f.ctx, f.code(1), "token", "instance", "web", server, 100)
	require.NoError(t, err)
	r := spec(source.SourceID)
	r.TargetType, r.ContainerTag = pointer("ContainerImage"), pointer("v7")
	id := f.create(r)
	_, err = f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, ContainerTag: pointer("v 8")})
	require.Equal(t, smc.CodeInvalidParameter, smc.CodeOf(err), "%v", err)
	_, err = f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, ContainerNamespace: pointer("ns")})
	require.NoError(t, err)
	job := f.job(id)
	reference, err := job.Spec.ContainerReference("web")
	require.NoError(t, err)
	require.Equal(t, "ns/web:v7", reference)
	made := ImageContainer{Reference: reference, Digest: "sha256:00", SizeBytes: 7, LeftOut: []string{"1 socket"}}
	run := f.start(id, "start", smc.TriggerStart).Run
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", run, hostURL, 1))
	require.NoError(t, f.EndSync(f.ctx, id, "process", run))
	require.NoError(t, f.EndContainer(f.ctx, id, "clean", run, "m-1", made))
	require.NoError(t, f.EndContainer(f.ctx, id, "clean", run, "m-1", made), "a second attempt finds it done")
	image, err := f.Image(f.ctx, account, "m-1")
	require.NoError(t, err)
	require.Equal(t, &made, image.Container)
	require.Empty(t, image.Disks)
}
