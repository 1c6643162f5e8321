package replica

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// ImageWriter is where [Download] puts a disk; *os.File is one.
type ImageWriter interface {
	io.WriterAt
	Truncate(size int64) error
}

// maxAttempts is how often in a row a download may get nowhere.
const maxAttempts = 6

// Download fetches a disk of an image into w as a sparse file: w is emptied,
// given the size of the artifact ([ArtifactSynced] or [ArtifactDelivered]),
// and written where the disk is not zero. Every grain is verified. When the
// connection breaks it goes on where it was; it gives up after six attempts
// without progress, when the ticket is refused ([ErrRefused]) or there is no
// such image ([ErrImageNotFound]). baseURL is the host's, without the
// protocol's prefix; client may be nil.
func Download(ctx context.Context, client *http.Client, baseURL, token, imageID string, disk int, artifact string, w ImageWriter) error {
	if err := checkID("image id", imageID); err != nil {
		return err
	}
	dec, err := newDecoder()
	if err != nil {
		return err
	}
	d := &download{
		api: newImageClient(client, baseURL, token), dec: dec, w: w, size: -1,
		path: fmt.Sprintf("/images/%s/disks/%d?artifact=%s", imageID, disk, url.QueryEscape(artifact)),
	}
	var tries tries
	for {
		before := d.next
		err := d.run(ctx)
		if err == nil || d.failed && ctx.Err() == nil {
			return err
		}
		if d.next > before {
			tries.progress()
		}
		if err := tries.again(ctx, err); err != nil {
			return fmt.Errorf("download disk %d of image %s: %w", disk, imageID, err)
		}
	}
}

// tries counts how often in a row a download got nowhere.
type tries struct {
	// patient does not count what passes when the network or the host is back.
	patient bool
	count   int
	wait    backoff
}

func (t *tries) progress() {
	t.count = 0
	t.wait.reset()
}

// again waits until it is time for another try after one that failed, or returns why there is to be none.
func (t *tries) again(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var coded *Error
	permanent := errors.As(err, &coded) && !transient(err) && coded.Code != CodeInvalidFrame && coded.Code != CodeGrainHashMismatch
	if away := coded == nil || coded.Code == CodeBusy; !t.patient || !away {
		t.count++
	}
	if permanent || t.count >= maxAttempts {
		return err
	}
	return t.wait.pause(ctx)
}

func newImageClient(client *http.Client, baseURL, token string) apiClient {
	if client == nil {
		client = NewClient(nil)
	}
	return apiClient{client: client, base: strings.TrimRight(baseURL, "/") + apiPrefix, token: token}
}

type download struct {
	api    apiClient
	path   string
	dec    *decoder
	w      ImageWriter
	size   int64 // -1: not known yet
	next   int64 // everything before is written
	failed bool  // w cannot be written: no use to go on
}

// run streams from where the last attempt ended.
func (d *download) run(ctx context.Context) error {
	// The last grain may be short: where only the end is missing it comes again.
	from := d.next - d.next%GrainSize
	resp, err := d.api.stream(ctx, http.MethodGet, d.path+"&from="+strconv.FormatInt(from, 10), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	size, err := artifactSize(resp)
	if err == nil && d.size >= 0 && size != d.size {
		err = newError(CodeInvalidRequest, "the disk had %d bytes and has %d now", d.size, size)
	}
	if err != nil {
		return err
	}
	if d.size < 0 {
		err := d.w.Truncate(0)
		if err == nil {
			err = d.w.Truncate(size)
		}
		if err != nil {
			d.failed = true
			return fmt.Errorf("make room for %d bytes: %w", size, err)
		}
		d.size = size
	}
	return takeFrames(newFrameReader(bufio.NewReaderSize(resp.Body, 256<<10), size, d.dec), make([]byte, MaxFrameRaw), from, func(f frame) error {
		if _, err := d.w.WriteAt(f.data, f.offset); err != nil {
			d.failed = true
			return fmt.Errorf("write at %d: %w", f.offset, err)
		}
		d.next = max(d.next, f.end())
		return nil
	})
}

// artifactSize is the size of the artifact that an answer is about.
func artifactSize(resp *http.Response) (int64, error) {
	size, err := strconv.ParseInt(resp.Header.Get(sizeHeader), 10, 64)
	if err != nil || size <= 0 || size > maxDiskSize {
		return 0, newError(CodeInvalidRequest, "the answer is not that of a transition host: it lacks a valid %s", sizeHeader)
	}
	return size, nil
}

// takeFrames hands on the frames of an answer, which must ascend from an offset. An answer is whole when it closes with an end frame.
// buf lends room for MaxFrameRaw bytes.
func takeFrames(frames *frameReader, buf []byte, from int64, take func(frame) error) error {
	for {
		f, err := frames.next(buf)
		switch {
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		case f.codec == codecEnd:
			return nil
		case f.offset < from:
			return newError(CodeInvalidFrame, "the frame at %d comes after %d", f.offset, from)
		}
		if err := take(f); err != nil {
			return err
		}
		from = f.end()
	}
}

// Verify has the host read an image back and compare it with its manifest. A
// damaged image is a result, not an error. client may be nil.
func Verify(ctx context.Context, client *http.Client, baseURL, token, imageID string, onProgress func(Progress)) (*VerifyResult, error) {
	if err := checkID("image id", imageID); err != nil {
		return nil, err
	}
	resp, err := newImageClient(client, baseURL, token).stream(ctx, http.MethodPost, "/images/"+imageID+"/verify", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	for lines := json.NewDecoder(resp.Body); ; {
		var line verifyLine
		if err := lines.Decode(&line); err != nil {
			return nil, fmt.Errorf("verify image %s: %w", imageID, err)
		}
		switch {
		case line.Error != nil:
			return nil, line.Error
		case line.Result != nil:
			return line.Result, nil
		case line.Progress != nil && onProgress != nil:
			onProgress(*line.Progress)
		}
	}
}
