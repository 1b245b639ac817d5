package operator_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	apiv1 "enkeyserver/internal/api/v1"
	"enkeyserver/internal/blob"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/keys"
)

// toyServer takes uploads and publishes each at once in a file of its own.
type toyServer struct {
	t      *testing.T
	signer crypto.Signer
	bucket *blob.Memory
	refuse bool // every upload
	hide   bool // publishes nothing

	mu    sync.Mutex
	files []exportfile.IndexEntry
}

func (s *toyServer) publish(w http.ResponseWriter, r *http.Request) {
	var request apiv1.Publish
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		s.t.Error(err)
	}
	if s.refuse {
		w.WriteHeader(http.StatusUnauthorized)
		s.answer(w, apiv1.PublishResponse{Code: apiv1.CodeUnknownApp, Error: "there is no such app"})
		return
	}
	if !s.hide {
		s.add(r.Context(), request)
	}
	s.answer(w, apiv1.PublishResponse{RevisionToken: "token", InsertedExposures: len(request.Keys)})
}

func (s *toyServer) answer(w http.ResponseWriter, answer apiv1.PublishResponse) {
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.t.Error(err)
	}
}

func (s *toyServer) add(ctx context.Context, request apiv1.Publish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []exposure.Exposure
	for _, k := range request.Keys {
		key, err := exposure.ParseKey(k.Key)
		if err != nil {
			s.t.Error(err)
		}
		all = append(all, exposure.Exposure{
			Key: key, Start: exposure.Interval(k.StartNumber), Period: k.Period, Risk: k.TransmissionRisk, Report: exposure.Confirmed,
		})
	}
	name := fmt.Sprintf("us/%05d.zip", len(s.files)+1)
	file := exportOf(s.t, s.signer, all, nil)
	if err := s.bucket.Create(ctx, name, blob.Object{Size: int64(len(file)), Body: bytes.NewReader(file)}); err != nil {
		s.t.Error(err)
	}
	s.files = append(s.files, exportfile.IndexEntry{Name: name})
	text := string(exportfile.Index{Files: s.files}.Text())
	object := blob.Object{Size: int64(len(text)), Body: strings.NewReader(text)}
	if err := s.bucket.Replace(ctx, "us/index.txt", int64(len(s.files)), object); err != nil {
		s.t.Error(err)
	}
}

func TestSimulate(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why          string
		refuse, hide bool
		status       int
		want         string
	}{
		{"all is well", false, false, 0, "18 files downloaded and checked, 3 of 3 phones warned, 0 wrongly"},
		{"the server refuses", true, false, 1, "the first refusal: status 401 unknown_health_authority_id: there is no such app"},
		{"the server forgets", false, true, 1, "0 of 3 phones warned, 0 wrongly"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			d := &desk{t: t, now: time.Date(2020, 11, 5, 12, 0, 0, 0, time.UTC)}
			private, public := d.newKey()
			signer, err := keys.OpenSigner(t.Context(), "file://"+private)
			if err != nil {
				t.Fatal(err)
			}
			toy := &toyServer{t: t, signer: signer, bucket: blob.NewMemory(), refuse: tc.refuse, hide: tc.hide}
			mux := http.NewServeMux()
			mux.HandleFunc("POST /v1/publish", toy.publish)
			mux.Handle("/files/", http.StripPrefix("/files", blob.Handler(toy.bucket)))
			server := httptest.NewServer(mux)
			t.Cleanup(server.Close)

			got := d.run("", "simulate", "--rounds", "3", "--server", server.URL+"/v1/publish", "--app", "org.example.app",
				"--key", private, "--kid", "v1", "--issuer", "ha", "--audience", "us",
				"--index", server.URL+"/files/us/index.txt", "--public-key", public, "--key-id", "310", "--key-version", "v1")
			if got.Status != tc.status || !strings.Contains(got.Out, tc.want) {
				t.Errorf("status %d, %q and %q, want %d and %q", got.Status, got.Out, got.Err, tc.status, tc.want)
			}
		})
	}
}

func TestSimulateUsage(t *testing.T) {
	t.Parallel()
	d := &desk{t: t, now: time.Now()}
	d.fails(2, "--server must be given", "", "simulate")
	d.fails(2, "--rounds and --every must be above 0", "", "simulate", "--rounds", "0")
}
