package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
)

// imageFormat is the value of --format.
type imageFormat string

const (
	formatRaw   imageFormat = "raw"
	formatQCOW2 imageFormat = "qcow2"
	// formatOCI is not asked for: it is that of every container image.
	formatOCI imageFormat = "oci"
)

// exported is what image export -o json prints.
type exported struct {
	ImageID string         `json:"ImageId"`
	Format  imageFormat    `json:"Format"`
	Synced  bool           `json:"Synced"`
	Files   []exportedFile `json:"Files"`
}

type exportedFile struct {
	Index int    `json:"Index"`
	Path  string `json:"Path"`
	// SizeBytes is the size of the disk, not of the file; of a container image it is that of the file.
	SizeBytes int64 `json:"SizeBytes"`
}

func (c *cli) imageExportCommand() *cobra.Command {
	format, synced := formatRaw, false
	cmd := &cobra.Command{
		Use:   "export IMAGE DIR [--synced] [--format raw|qcow2]",
		Short: "Fetch the disks of an image, or a container image, into a directory",
		Long: `Fetch the disks of an image into DIR as disk-0.raw (the system disk), disk-1.raw and so on. IMAGE is an id or a name.

The default is the delivered image: grown to the sizes the job asked for, its boot loader as it was. With --synced it is the
synced state: exactly the bytes of the source. Raw files are sparse. qcow2 needs qemu-img (package qemu-utils).

A container image is fetched as one file, image.oci.tar, whichever format: podman load, docker load and skopeo (oci-archive:) read it.

Files appear under their names when all of them are complete; older ones of the same names are replaced.`,
		Example: "  drover image export web-1 ./out --synced\n  drover image export web-1 ./out --format qcow2",
		Args:    exactArgs("IMAGE", "DIR"),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, args []string) error {
			if format == formatQCOW2 {
				if _, err := exec.LookPath("qemu-img"); err != nil {
					return errors.New("qemu-img is not installed, and --format qcow2 needs it; install the package qemu-utils, or use --format raw")
				}
			}
			e := &export{format: format, artifact: replica.ArtifactDelivered, dir: args[1]}
			if synced {
				e.artifact = replica.ArtifactSynced
			}
			done, err := c.exportImage(ctx, client, args[0], e)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(done)
			}
			for _, f := range done.Files {
				if err := c.printf("%s  %s\n", f.Path, progress.Bytes(f.SizeBytes)); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&synced, "synced", false, "the state of the source, byte for byte, rather than the delivered image")
	cmd.Flags().Var(choice[imageFormat]{&format, []imageFormat{formatRaw, formatQCOW2}}, "format", "`FORMAT` of the files: raw or qcow2")
	return cmd
}

// export is one export on its way.
type export struct {
	format   imageFormat
	artifact string
	dir      string
	host     *http.Client   // of the transition host
	view     *progress.View // nil when nobody watches
	temps    []string
}

func (c *cli) exportImage(ctx context.Context, client *smc.Client, ref string, e *export) (*exported, error) {
	image, err := findImage(ctx, client, ref)
	if err != nil {
		return nil, err
	}
	ticket, err := client.GetImageTicket(ctx, &smc.GetImageTicketRequest{ImageID: image.ImageID})
	if err != nil {
		return nil, err
	}
	container := image.TargetType == smc.TargetContainerImage
	switch {
	case container && (e.format != formatRaw || e.artifact != replica.ArtifactDelivered):
		return nil, inputf("image %s is a container image: leave out --synced and --format", image.ImageID)
	case !container && len(ticket.Disks) == 0:
		return nil, fmt.Errorf("image %s has no disks", image.ImageID)
	}
	if err := os.MkdirAll(e.dir, 0o755); err != nil { //nolint:gosec // as mkdir(1) makes it
		return nil, fmt.Errorf("make the directory to export to: %w", err)
	}
	if f, ok := c.errOut.(*os.File); ok && term.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor fits
		e.view = progress.NewView(f, progress.Auto)
		defer e.view.Clear()
	}
	if e.host, err = c.hostClient(); err != nil {
		return nil, err
	}
	defer e.cleanUp()
	if image.TargetType == smc.TargetContainerImage {
		return e.fetchContainer(ctx, ticket, image)
	}
	done := &exported{ImageID: image.ImageID, Format: e.format, Synced: e.artifact == replica.ArtifactSynced}
	for _, disk := range ticket.Disks {
		size, err := e.fetch(ctx, ticket, disk)
		if err != nil {
			return nil, fmt.Errorf("export disk %d of image %s: %w", disk.Index, image.ImageID, err)
		}
		done.Files = append(done.Files, exportedFile{
			Index: disk.Index, SizeBytes: size,
			Path: filepath.Join(e.dir, diskName(disk.Index)+"."+string(e.format)),
		})
	}
	return done, e.finish(done)
}

// finish gives the files their names.
func (e *export) finish(done *exported) error {
	for i, f := range done.Files {
		if err := os.Rename(e.temps[i], f.Path); err != nil {
			return fmt.Errorf("finish the export of image %s: %w", done.ImageID, err)
		}
	}
	e.temps = nil
	return nil
}

// containerFile is the name of an exported container image.
const containerFile = "image.oci.tar"

// fetchContainer brings a container image.
func (e *export) fetchContainer(ctx context.Context, ticket *smc.GetImageTicketResult, image smc.Image) (*exported, error) {
	file, err := e.temp("image", formatOCI)
	if err != nil {
		return nil, err
	}
	e.temps = append(e.temps, file.Name())
	defer file.Close()
	var fetched atomic.Int64
	stop := e.watch("container image", "Fetching", image.SizeBytes, &fetched)
	err = replica.DownloadContainer(ctx, e.host, ticket.URL, ticket.Token, ticket.ImageID, image.ContainerDigest, image.ContainerReference, file,
		func(n int64) { fetched.Add(n) })
	stop()
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return nil, fmt.Errorf("export image %s: %w", image.ImageID, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	done := &exported{ImageID: image.ImageID, Format: formatOCI, Files: []exportedFile{{Path: filepath.Join(e.dir, containerFile), SizeBytes: info.Size()}}}
	return done, e.finish(done)
}

// diskName is what an exported disk is called, but for its format.
func diskName(index int) string { return fmt.Sprintf("disk-%d", index) }

// cleanUp removes what is not finished.
func (e *export) cleanUp() {
	for _, name := range e.temps {
		_ = os.Remove(name) // it may have got its name already
	}
}

// temp makes an empty file beside where the result will be.
func (e *export) temp(name string, suffix imageFormat) (*os.File, error) {
	f, err := os.CreateTemp(e.dir, fmt.Sprintf(".%s.%s.*.part", name, suffix))
	if err != nil {
		return nil, err
	}
	return f, f.Chmod(0o644)
}

// fetch brings one disk to a temporary file, the next of e.temps, and returns the size of the disk.
func (e *export) fetch(ctx context.Context, ticket *smc.GetImageTicketResult, disk smc.ImageDisk) (size int64, err error) {
	raw, err := e.temp(diskName(disk.Index), formatRaw)
	if err != nil {
		return 0, err
	}
	keep := false
	defer func() {
		err = errors.Join(err, raw.Close())
		if !keep || err != nil {
			_ = os.Remove(raw.Name())
		}
	}()
	total := disk.DeliveredSizeBytes
	if e.artifact == replica.ArtifactSynced {
		total = disk.SizeBytes
	}
	w := &countingWriter{File: raw}
	stop := e.watch(fmt.Sprintf("disk %d", disk.Index), "Fetching", total, &w.written)
	err = replica.Download(ctx, e.host, ticket.URL, ticket.Token, ticket.ImageID, disk.Index, e.artifact, w)
	stop()
	if err == nil {
		err = raw.Sync()
	}
	if err != nil {
		return 0, err
	}
	info, err := raw.Stat()
	if err != nil {
		return 0, err
	}
	if e.format == formatRaw {
		keep = true
		e.temps = append(e.temps, raw.Name())
		return info.Size(), nil
	}
	return info.Size(), e.convert(ctx, raw.Name(), disk.Index)
}

// convert makes a compressed qcow2 file of a raw one, the next of e.temps.
func (e *export) convert(ctx context.Context, raw string, disk int) error {
	out, err := e.temp(diskName(disk), formatQCOW2)
	if err != nil {
		return err
	}
	e.temps = append(e.temps, out.Name())
	if err := out.Close(); err != nil {
		return err
	}
	var none atomic.Int64
	defer e.watch(fmt.Sprintf("disk %d", disk), "Converting", 0, &none)()
	cmd := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-W", "-c", //nolint:gosec // our own arguments
		"-o", "compression_type=zstd", raw, out.Name())
	var messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &messages, &messages
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("qemu-img convert: %w: %s", err, strings.TrimSpace(messages.String()))
	}
	return nil
}

// countingWriter counts what a download has written.
type countingWriter struct {
	*os.File
	written atomic.Int64
}

// WriteAt implements replica.ImageWriter.
func (w *countingWriter) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.File.WriteAt(p, off)
	// Holes are not written: where it is says more than how much it was.
	for end := off + int64(n); ; {
		old := w.written.Load()
		if end <= old || w.written.CompareAndSwap(old, end) {
			return n, err
		}
	}
}

// watch shows a bar until the function it returns is called.
func (e *export) watch(name, phase string, total int64, done *atomic.Int64) (stop func()) {
	if e.view == nil {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			s := progress.State{Name: name, Phase: phase, BytesTotal: total, BytesRead: done.Load(), ETA: -1}
			if total > 0 {
				s.Percent = 100 * float64(s.BytesRead) / float64(total)
			}
			e.view.Update(s)
			select {
			case <-ticker.C:
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-ended }
}
