package phone

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
)

// Feed is an export as phones follow it.
type Feed struct {
	Base    string                 // URL before every object name, with its slash
	Index   string                 // object name of the index
	Trusted []exportfile.PublicKey // of which one must have signed
	HTTP    *http.Client           // nil: http.DefaultClient
}

// Client is the part of a phone that follows one feed. It remembers the last
// entry of the index that it has processed, and nothing else.
type Client struct {
	Phone *Phone
	Feed  Feed
	last  string
}

// Polled tells what a poll brought.
type Polled struct {
	Files   int
	Keys    int
	Revised int
	Bytes   int64
	Again   bool // the last entry had vanished: everything was downloaded again
}

// Poll does what a phone does every few hours: it reads the index, downloads
// what is new, checks all of it, and only then looks for matches. One file that
// is missing or breaks a rule fails the poll as a whole, and the next poll
// meets it again: so do real phones.
func (c *Client) Poll(ctx context.Context, now time.Time) (polled Polled, err error) {
	defer errs.Wrap(&err, "Poll(%s)", c.Feed.Index)
	listed, err := c.Feed.List(ctx)
	if err != nil {
		return Polled{}, err
	}
	fresh, again := after(listed, c.last)
	polled.Again = again
	files := make([][]byte, 0, len(fresh))
	for _, name := range fresh {
		file, err := c.Feed.Download(ctx, name, now)
		if err != nil {
			return Polled{}, err
		}
		files = append(files, file)
		polled.Bytes += int64(len(file))
	}
	for _, file := range files {
		if err := c.consider(file, &polled); err != nil {
			return Polled{}, err
		}
	}
	if len(listed) > 0 {
		c.last = listed[len(listed)-1]
	}
	return polled, nil
}

// after gives the entries that follow the last one processed; all of them when
// it has vanished.
func after(listed []string, last string) (fresh []string, again bool) {
	if last == "" {
		return listed, false
	}
	i := slices.Index(listed, last)
	if i < 0 {
		return listed, len(listed) > 0
	}
	return listed[i+1:], false
}

func (c *Client) consider(file []byte, polled *Polled) error {
	contents, err := exportfile.Read(bytes.NewReader(file), int64(len(file)), func(e exposure.Exposure, _ bool) error {
		c.Phone.Consider(e)
		return nil
	})
	polled.Files++
	polled.Keys += contents.Keys
	polled.Revised += contents.Revised
	return err
}

// List reads the index. An index that is not there yet lists nothing.
func (f Feed) List(ctx context.Context) ([]string, error) {
	raw, status, err := f.Get(ctx, f.Index)
	if err != nil || status == http.StatusNotFound {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("GET %s: status %d", f.Index, status)
	}
	// The deployed app splits at white space and trusts the rest.
	return strings.Fields(string(raw)), nil
}

// Download gets one file and checks it with the rules that phones enforce.
func (f Feed) Download(ctx context.Context, name string, now time.Time) (_ []byte, err error) {
	defer errs.Wrap(&err, "Download(%s)", name)
	file, status, err := f.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("status %d", status)
	}
	_, err = exportfile.Check(bytes.NewReader(file), int64(len(file)), f.Trusted, now)
	return file, err
}

// Get fetches an object whole. Phones send no conditional requests.
func (f Feed) Get(ctx context.Context, name string) (body []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.Base+name, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := client(f.HTTP).Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return body, resp.StatusCode, err
}
