package replica

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const benchSize = 512 << 20

// benchDisk is two thirds data, half of which shrinks to half, and one third hole.
func benchDisk(b *testing.B) SourceDisk {
	b.Helper()
	path := filepath.Join(b.TempDir(), "bench.raw")
	f, err := os.Create(path)
	require.NoError(b, err)
	defer f.Close()
	require.NoError(b, f.Truncate(benchSize))
	rng := rand.New(rand.NewPCG(1, 1))
	buf := make([]byte, 4<<20)
	for off := int64(0); off < benchSize*2/3; off += int64(len(buf)) {
		randomize(rng, buf)
		if off/int64(len(buf))%2 == 0 {
			for i := 0; i < len(buf); i += 512 {
				copy(buf[i:i+256], zeroGrain[:])
			}
		}
		_, err := f.WriteAt(buf, off)
		require.NoError(b, err)
	}
	require.NoError(b, f.Sync())
	return SourceDisk{Path: path}
}

func BenchmarkSyncFull(b *testing.B) {
	disk := benchDisk(b)
	for _, level := range []int{0, 1, 2} {
		b.Run(fmt.Sprintf("level=%d", level), func(b *testing.B) {
			s := newSite(b)
			b.SetBytes(benchSize)
			for i := range b.N {
				job := fmt.Sprintf("j-%d", i)
				s.run(job, 1, Params{CompressLevel: level}, disk)
				b.StopTimer()
				require.NoError(b, s.host.ReleaseStaging(b.Context(), job))
				b.StartTimer()
			}
		})
	}
}

// BenchmarkSyncTLS sends a disk over plain http and over https in turns: what TLS costs.
func BenchmarkSyncTLS(b *testing.B) {
	disk := benchDisk(b)
	for _, level := range []int{0, 1} {
		b.Run(fmt.Sprintf("level=%d", level), func(b *testing.B) {
			sites := []*site{startSite(b, false), startSite(b, true)}
			var spent [2]time.Duration
			for i := range b.N {
				for j := range sites {
					k := (i + j) % len(sites) // neither is always first
					job := fmt.Sprintf("j-%d", i)
					begin := time.Now()
					sites[k].run(job, 1, Params{CompressLevel: level}, disk)
					spent[k] += time.Since(begin)
					require.NoError(b, sites[k].host.ReleaseStaging(b.Context(), job))
				}
			}
			rate := func(d time.Duration) float64 { return float64(b.N) * benchSize / 1e6 / d.Seconds() }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(rate(spent[0]), "plain-MB/s")
			b.ReportMetric(rate(spent[1]), "tls-MB/s")
			b.ReportMetric(spent[0].Seconds()/spent[1].Seconds(), "tls/plain")
		})
	}
}

// BenchmarkSyncIncremental changes one grain in fifty before each run.
func BenchmarkSyncIncremental(b *testing.B) {
	disk := benchDisk(b)
	s := newSite(b)
	s.run("j-1", 1, DefaultParams(), disk)
	rng := rand.New(rand.NewPCG(2, 2))
	b.SetBytes(benchSize)
	for i := range b.N {
		b.StopTimer()
		for range benchSize / GrainSize / 50 {
			overwrite(b, disk.Path, rng.Int64N(benchSize*2/3-8), []byte("changed!"))
		}
		f, err := os.Open(disk.Path)
		require.NoError(b, err)
		require.NoError(b, f.Sync())
		require.NoError(b, f.Close())
		b.StartTimer()
		s.run("j-1", i+2, DefaultParams(), disk)
	}
}

func BenchmarkMakeImage(b *testing.B) {
	disk := benchDisk(b)
	s := newSite(b)
	s.run("j-1", 1, DefaultParams(), disk)
	for _, final := range []bool{true, false} {
		b.Run(fmt.Sprintf("final=%v", final), func(b *testing.B) {
			b.SetBytes(benchSize)
			for i := range b.N {
				id := fmt.Sprintf("m-%v-%d-%d", final, i, time.Now().UnixNano())
				_, err := s.host.MakeImage(b.Context(), ImageSpec{ImageID: id, JobID: "j-1", Run: 1, Final: final}, nil)
				require.NoError(b, err)
				b.StopTimer()
				require.NoError(b, s.host.DeleteImage(b.Context(), id))
				b.StartTimer()
			}
		})
	}
}

func BenchmarkGrainHash(b *testing.B) {
	grain := make([]byte, GrainSize)
	randomize(rand.New(rand.NewPCG(1, 1)), grain)
	b.SetBytes(GrainSize)
	for b.Loop() {
		GrainHash(grain)
	}
}

// BenchmarkDeliver delivers an image to a blank disk, to one that has it, and to one of which one grain in fifty differs.
func BenchmarkDeliver(b *testing.B) {
	disk := benchDisk(b)
	s := newSite(b)
	s.run("j-1", 1, DefaultParams(), disk)
	_, err := s.host.MakeImage(b.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1}, nil)
	require.NoError(b, err)
	deliver := func(b *testing.B, path string) {
		b.Helper()
		target, err := OpenTarget(path)
		require.NoError(b, err)
		defer target.Close()
		_, err = Deliver(b.Context(), s.delivery("m-1", target), nil)
		require.NoError(b, err)
	}
	path := blank(b, benchSize)
	rng := rand.New(rand.NewPCG(3, 3))
	for name, before := range map[string]func(){
		"blank": func() {
			require.NoError(b, os.Truncate(path, 0))
			require.NoError(b, os.Truncate(path, benchSize))
		},
		"same": func() {},
		"changed": func() {
			for range benchSize / GrainSize / 50 {
				overwrite(b, path, rng.Int64N(benchSize*2/3-8), []byte("changed!"))
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(benchSize)
			for range b.N {
				b.StopTimer()
				deliver(b, path)
				before()
				b.StartTimer()
				deliver(b, path)
			}
		})
	}
}
