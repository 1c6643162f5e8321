package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
)

// verified is what image verify -o json prints.
type verified struct {
	ImageID  string         `json:"ImageId"`
	Verified bool           `json:"Verified"`
	Disks    []verifiedDisk `json:"Disks"`
	// Message says what is wrong with a container image, which has no disks.
	Message string `json:"Message,omitempty"`
}

type verifiedDisk struct {
	Index     int    `json:"Index"`
	Verified  bool   `json:"Verified"`
	BadGrains int64  `json:"BadGrains"`
	Message   string `json:"Message,omitempty"`
}

func (c *cli) imageVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Have the transition host read an image back and check every byte",
		Long: `Have the transition host read an image back and compare it with the hashes taken at the source, a
container image with the digests it was made with. IMAGE is an id or a
name. The exit code is 1 when it does not hold. The center keeps the outcome: "drover image show" has it, and a workgroup
warns of an image that did not pass.`,
		Example: "  drover image verify web-1",
		Args:    exactArgs("IMAGE"),
		RunE:    withOne(c, findImage, c.verifyImage),
	}
}

func (c *cli) verifyImage(ctx context.Context, client *smc.Client, image smc.Image) error {
	ticket, err := client.GetImageTicket(ctx, &smc.GetImageTicketRequest{ImageID: image.ImageID})
	if err != nil {
		return err
	}
	host, err := c.hostClient()
	if err != nil {
		return err
	}
	view := progress.NewView(c.errOut, progress.Auto)
	result, err := askToVerify(ctx, host, ticket, func(p replica.Progress) {
		if !view.Live() {
			return
		}
		s := progress.State{Name: image.ImageName, Phase: "Verifying", BytesTotal: p.BytesTotal, BytesRead: p.BytesRead, ETA: -1}
		if p.BytesTotal > 0 {
			s.Percent = 100 * float64(p.BytesRead) / float64(p.BytesTotal)
		}
		view.Update(s)
	})
	view.Clear()
	if err != nil {
		return fmt.Errorf("verify image %s: %w", image.ImageID, err)
	}
	return c.reportVerified(image, result)
}

func (c *cli) reportVerified(image smc.Image, result *replica.VerifyResult) error {
	v := verified{ImageID: image.ImageID, Verified: result.OK, Disks: []verifiedDisk{}, Message: result.Message}
	for _, d := range result.Disks {
		v.Disks = append(v.Disks, verifiedDisk{d.Index, d.OK, d.BadGrains, d.Message})
	}
	var err error
	if c.json() {
		err = c.printJSON(v)
	} else {
		outcome := map[bool]string{true: "verified", false: "NOT VERIFIED"}
		if image.TargetType == smc.TargetContainerImage {
			err = c.printf("image %s container image: %s\n", image.ImageID, outcome[v.Verified])
		}
		for _, d := range v.Disks {
			err = errors.Join(err, c.printf("image %s disk %d: %s\n", image.ImageID, d.Index, outcome[d.Verified]))
		}
	}
	if err != nil || result.OK {
		return err
	}
	return smc.Errorf(smc.CodeImageVerificationFailed, "image %s (%s): %s", image.ImageID, image.ImageName, result.Problems())
}

// verifyMessage is a line of the transition host's answer: progress, and last the result or what went wrong.
type verifyMessage struct {
	Progress *replica.Progress     `json:"progress"`
	Result   *replica.VerifyResult `json:"result"`
	Error    *replica.Error        `json:"error"`
}

// askToVerify has the transition host verify an image and waits for the result.
func askToVerify(ctx context.Context, host *http.Client, ticket *smc.GetImageTicketResult, onProgress func(replica.Progress)) (*replica.VerifyResult, error) {
	address := strings.TrimSuffix(ticket.URL, "/") + "/replica/v1/images/" + url.PathEscape(ticket.ImageID) + "/verify"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+ticket.Token)
	resp, err := host.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the transition host does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		refused := new(replica.Error)
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if json.Unmarshal(body, refused) == nil && refused.Code != "" {
			return nil, refused
		}
		return nil, fmt.Errorf("the transition host answered %s", resp.Status)
	}
	for dec := json.NewDecoder(resp.Body); ; {
		var m verifyMessage
		if err := dec.Decode(&m); err != nil {
			return nil, fmt.Errorf("the transition host broke off: %w", err)
		}
		switch {
		case m.Error != nil:
			return nil, m.Error
		case m.Result != nil:
			return m.Result, nil
		case m.Progress != nil:
			onProgress(*m.Progress)
		}
	}
}
