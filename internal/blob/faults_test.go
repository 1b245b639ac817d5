package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/blob/blobtest"
	"enkeyserver/internal/blob/emulators"
	"enkeyserver/internal/errs"
)

// scene is a bucket of a cloud that is used through a proxy, and directly.
type scene struct {
	kind   emulators.Kind
	proxy  *blobtest.Proxy
	bucket blob.Bucket // through the proxy
	other  blob.Bucket // of somebody else
}

const patient = 10 * time.Second

// eachCloud plays a story on every kind of cloud.
func eachCloud(t *testing.T, answer time.Duration, play func(t *testing.T, s scene)) {
	onClouds(t, emulators.Kinds(), answer, play)
}

func onClouds(t *testing.T, kinds []emulators.Kind, answer time.Duration, play func(t *testing.T, s scene)) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			url := blobtest.CloudURL(t, kind)
			proxy := blobtest.NewProxy(t, url)
			play(t, scene{kind: kind, proxy: proxy, bucket: blob.Impatient(open(t, proxy.URL), answer), other: open(t, url)})
		})
	}
}

func (s scene) create(t *testing.T) error {
	t.Helper()
	return s.bucket.Create(t.Context(), "us/1.zip", blobtest.Text("one"))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantText(t *testing.T, b blob.Bucket, name, want string) {
	t.Helper()
	body, _, err := b.Open(t.Context(), name)
	must(t, err)
	got, err := io.ReadAll(body)
	must(t, errors.Join(err, body.Close()))
	if string(got) != want {
		t.Errorf("%s is %.40q, want %.40q", name, got, want)
	}
}

// counted counts the requests that a fault hits.
func counted(n *atomic.Int64, fault blobtest.Fault) blobtest.Fault {
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		n.Add(1)
		fault(w, r, forward)
	}
}

// A cloud that is out of order for a moment is asked again, and not for ever.
func TestCloudTransientFaults(t *testing.T) {
	for _, tc := range []struct {
		why   string
		fault blobtest.Fault
	}{
		{"overloaded", blobtest.Answer(http.StatusServiceUnavailable)},
		{"too many requests", blobtest.Answer(http.StatusTooManyRequests)},
		{"an error of its own", blobtest.Answer(http.StatusInternalServerError)},
		{"the connection breaks before anything is read", func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }},
		{"the connection breaks in the middle of what is sent", blobtest.HangUp},
	} {
		t.Run(tc.why, func(t *testing.T) {
			eachCloud(t, patient, func(t *testing.T, s scene) {
				s.proxy.Arm(2, blobtest.Anything, tc.fault)
				must(t, s.create(t))
				s.proxy.Arm(2, blobtest.Writing, tc.fault)
				must(t, s.bucket.Replace(t.Context(), "us/index", 7, blobtest.Numbered(7)))
				s.proxy.Arm(2, blobtest.Anything, tc.fault)
				wantText(t, s.bucket, "us/1.zip", "one")
				s.proxy.Arm(2, blobtest.Anything, tc.fault)
				names := 0
				for _, err := range s.bucket.List(t.Context(), "us/") {
					must(t, err)
					names++
				}
				if names != 2 {
					t.Errorf("%d objects are listed, want 2", names)
				}
				s.proxy.Arm(2, blobtest.Anything, tc.fault)
				must(t, s.bucket.Delete(t.Context(), "us/1.zip"))

				var tries atomic.Int64
				s.proxy.Arm(1000, blobtest.Anything, counted(&tries, tc.fault))
				err := s.create(t)
				if err == nil || errs.KindOf(err) != errs.Internal || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %v, want one line that asks for another run", err)
				}
				// A connection that breaks before its first byte may be a
				// stale one, and is replaced without being counted.
				if n := tries.Load(); n < blob.Tries || n > 2*blob.Tries {
					t.Errorf("%d requests were made, want about %d", n, blob.Tries)
				}
			})
		})
	}
}

// A write whose answer got lost has taken place: it is recognised, and not
// taken for somebody else's.
func TestCloudAnswerIsLost(t *testing.T) {
	eachCloud(t, patient, func(t *testing.T, s scene) {
		lost := blobtest.Lose(func() {})
		s.proxy.Arm(1, blobtest.Writing, lost)
		must(t, s.create(t))
		if err := s.create(t); errs.KindOf(err) != errs.KindConflict {
			t.Errorf("the same bytes of another writer give error %v, want a conflict", err)
		}
		s.proxy.Arm(1, blobtest.Writing, lost)
		must(t, s.bucket.Replace(t.Context(), "us/index", 5, blobtest.Numbered(5)))
		s.proxy.Arm(1, blobtest.Writing, lost)
		must(t, s.bucket.Replace(t.Context(), "us/index", 6, blobtest.Numbered(6)))
		if err := s.bucket.Replace(t.Context(), "us/index", 6, blobtest.Numbered(6)); errs.KindOf(err) != errs.KindConflict {
			t.Errorf("the same number of another writer gives error %v, want a conflict", err)
		}
		s.proxy.Arm(1, blobtest.Deleting, lost)
		must(t, s.bucket.Delete(t.Context(), "us/1.zip"))
		if _, _, err := s.other.Open(t.Context(), "us/1.zip"); errs.KindOf(err) != errs.KindNotFound {
			t.Errorf("what was deleted gives error %v", err)
		}
	})
}

// While a writer has no answer somebody newer comes: nothing goes back.
func TestCloudAnswerIsLostAndOvertaken(t *testing.T) {
	eachCloud(t, patient, func(t *testing.T, s scene) {
		s.proxy.Arm(1, blobtest.Writing, blobtest.Lose(func() {
			if err := s.other.Replace(t.Context(), "us/index", 6, blobtest.Numbered(6)); err != nil {
				t.Error(err)
			}
		}))
		if err := s.bucket.Replace(t.Context(), "us/index", 5, blobtest.Numbered(5)); errs.KindOf(err) != errs.KindConflict {
			t.Errorf("error %v, want a conflict", err)
		}
		if n, err := blobtest.ReadNumbered(t.Context(), s.other, "us/index"); err != nil || n != 6 {
			t.Errorf("sequence %d is stored (error %v), want 6", n, err)
		}
	})
}

// Between a writer's look and its write others come. It loses against a newer
// one, wins against an older one, and its object may even be gone.
func TestCloudWriterIsOvertaken(t *testing.T) {
	for _, tc := range []struct {
		why       string
		meanwhile func(ctx context.Context, other blob.Bucket) error
		want      errs.Kind
	}{
		{"by a newer one", func(ctx context.Context, other blob.Bucket) error {
			return other.Replace(ctx, "us/index", 7, blobtest.Numbered(7))
		}, errs.KindConflict},
		{"by an older one", func(ctx context.Context, other blob.Bucket) error {
			return other.Replace(ctx, "us/index", 4, blobtest.Numbered(4))
		}, 0},
		{"by one that deletes", func(ctx context.Context, other blob.Bucket) error {
			return other.Delete(ctx, "us/index")
		}, 0},
	} {
		t.Run(tc.why, func(t *testing.T) {
			eachCloud(t, patient, func(t *testing.T, s scene) {
				must(t, s.other.Replace(t.Context(), "us/index", 3, blobtest.Numbered(3)))
				s.proxy.Arm(1, blobtest.Writing, blobtest.Wait(func() {
					if err := tc.meanwhile(t.Context(), s.other); err != nil {
						t.Error(err)
					}
				}))
				err := s.bucket.Replace(t.Context(), "us/index", 5, blobtest.Numbered(5))
				if errs.KindOf(err) != tc.want || (err == nil) != (tc.want == 0) {
					t.Errorf("error %v, want kind %d", err, tc.want)
				}
				want := int64(5)
				if tc.want != 0 {
					want = 7
				}
				if n, err := blobtest.ReadNumbered(t.Context(), s.other, "us/index"); err != nil || n != want {
					t.Errorf("sequence %d is stored (error %v), want %d", n, err, want)
				}
			})
		})
	}
}

// The same bytes come back under a higher number between a writer's look and its
// write. Only S3 does not notice: its versions are hashes of the content.
func TestCloudSameBytesComeBack(t *testing.T) {
	eachCloud(t, patient, func(t *testing.T, s scene) {
		must(t, s.other.Replace(t.Context(), "us/index", 3, blobtest.Text("same")))
		s.proxy.Arm(1, blobtest.Writing, blobtest.Wait(func() {
			if err := s.other.Replace(t.Context(), "us/index", 7, blobtest.Text("same")); err != nil {
				t.Error(err)
			}
		}))
		err := s.bucket.Replace(t.Context(), "us/index", 5, blobtest.Text("stale"))
		if noticed := errs.KindOf(err) == errs.KindConflict; noticed != (s.kind != emulators.Amazon) {
			t.Errorf("error %v: noticed is %t", err, noticed)
		}
	})
}

func large() blob.Object {
	body := make([]byte, 3<<20)
	random := rand.NewChaCha8([32]byte{})
	random.Read(body) //nolint:errcheck // it never fails
	return blob.Object{Size: int64(len(body)), Body: bytes.NewReader(body)}
}

// A download goes on where its connection broke.
func TestCloudDownloadIsCut(t *testing.T) {
	eachCloud(t, patient, func(t *testing.T, s scene) {
		o := large()
		must(t, s.other.Create(t.Context(), "large", o))
		s.proxy.Arm(2, blobtest.Downloading, blobtest.Cut(func() {}))
		body, _, err := s.bucket.Open(t.Context(), "large")
		must(t, err)
		got, err := io.ReadAll(body)
		must(t, errors.Join(err, body.Close()))
		_, err = o.Body.Seek(0, io.SeekStart)
		must(t, err)
		if want, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes came and are not those that were stored (error %v)", len(got), err)
		}
	})
}

// It does not go on with another object.
func TestCloudDownloadIsCutAndReplaced(t *testing.T) {
	eachCloud(t, patient, func(t *testing.T, s scene) {
		must(t, s.other.Replace(t.Context(), "large", 1, large()))
		newer := large()
		newer.Size--
		newer.Body = io.NewSectionReader(newer.Body.(io.ReaderAt), 1, newer.Size)
		s.proxy.Arm(1, blobtest.Downloading, blobtest.Cut(func() {
			if err := s.other.Replace(t.Context(), "large", 2, newer); err != nil {
				t.Error(err)
			}
		}))
		body, _, err := s.bucket.Open(t.Context(), "large")
		must(t, err)
		got, err := io.ReadAll(body)
		if err == nil {
			t.Errorf("%d bytes came without an error", len(got))
		}
		must(t, body.Close())
	})
}

// A cloud that says nothing is not waited for.
func TestCloudIsSilent(t *testing.T) {
	eachCloud(t, time.Second, func(t *testing.T, s scene) {
		s.proxy.Arm(1, blobtest.Writing, blobtest.Silence)
		must(t, s.create(t))
		s.proxy.Arm(1, blobtest.Downloading, blobtest.Silence)
		wantText(t, s.bucket, "us/1.zip", "one")

		blob.Impatient(s.bucket, 50*time.Millisecond)
		s.proxy.Arm(1000, blobtest.Anything, blobtest.Silence)
		err := s.bucket.Create(t.Context(), "us/2.zip", blobtest.Text("two"))
		if err == nil || !strings.Contains(err.Error(), "did not answer in time") {
			t.Errorf("error %v, want one that tells of the silence", err)
		}
	})
}

// A body that drips is given up after a while, however often a byte comes.
func TestCloudDrips(t *testing.T) {
	eachCloud(t, 500*time.Millisecond, func(t *testing.T, s scene) {
		o := blobtest.Text(strings.Repeat("x", 10_000))
		must(t, s.other.Create(t.Context(), "slow", o))
		s.proxy.Arm(1000, blobtest.Downloading, blobtest.Drip)
		body, _, err := s.bucket.Open(t.Context(), "slow")
		must(t, err)
		got, err := io.ReadAll(body)
		if err == nil {
			t.Errorf("%d bytes came without an error", len(got))
		}
		must(t, body.Close())
	})
}

// A long list comes in pages, and goes on after a fault between two of them.
func TestCloudListsInPages(t *testing.T) {
	eachCloud(t, patient, func(t *testing.T, s scene) {
		var want []string
		for i := range 7 {
			want = append(want, fmt.Sprintf("us/%d.zip", i))
			must(t, s.other.Create(t.Context(), want[i], blobtest.Text("x")))
		}
		var requests atomic.Int64
		s.proxy.Arm(1000, func(*http.Request) bool { return requests.Add(1) == 2 }, blobtest.Answer(http.StatusServiceUnavailable))
		var got []string
		for entry, err := range s.bucket.List(t.Context(), "us/") {
			must(t, err)
			got = append(got, entry.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("objects (-want +got):\n%s", diff)
		}
		if n := requests.Load(); n != 4 {
			t.Errorf("%d requests were made, want 3 and a repeat", n)
		}
	})
}

// Whoever stops need not wait for the cloud.
func TestCloudIsLeft(t *testing.T) {
	eachCloud(t, time.Hour, func(t *testing.T, s scene) {
		ctx, leave := context.WithCancelCause(t.Context())
		left := errors.New("the service is stopped")
		s.proxy.Arm(1000, blobtest.Anything, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
			leave(left)
			blobtest.Silence(w, r, forward)
		})
		if err := s.bucket.Create(ctx, "us/1.zip", blobtest.Text("one")); !errors.Is(err, left) {
			t.Errorf("error %v, want that of the context", err)
		}
	})
}

// use calls each method of a bucket.
func use(t *testing.T, b blob.Bucket) map[string]error {
	t.Helper()
	all := map[string]error{
		"Create":  b.Create(t.Context(), "us/1.zip", blobtest.Text("one")),
		"Replace": b.Replace(t.Context(), "us/index", 1, blobtest.Text("one")),
		"Delete":  b.Delete(t.Context(), "us/1.zip"),
	}
	_, _, all["Open"] = b.Open(t.Context(), "us/1.zip")
	for _, err := range b.List(t.Context(), "us/") {
		all["List"] = err
	}
	return all
}

// noGoogleBucket answers as Cloud Storage does where there is no bucket. The
// emulator's answer is that of a missing object.
func noGoogleBucket(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body)
	if blobtest.Downloading(r) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist.</Message></Error>`)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_, _ = io.WriteString(w, `{"error":{"code":404,"message":"The specified bucket does not exist.","errors":[{"message":"The specified bucket does not exist.","domain":"global","reason":"notFound"}]}}`)
}

// What is refused is said in one line, at once, and is never taken for an
// object that is not there: Delete would be content.
func TestCloudRefusals(t *testing.T) {
	for _, tc := range []struct {
		why   string
		spoil func(s scene) scene
		want  string
		kinds []emulators.Kind
	}{
		{"a right is missing", func(s scene) scene {
			s.proxy.Arm(1000, blobtest.Anything, blobtest.Answer(http.StatusForbidden))
			return s
		}, "this service needs", emulators.Kinds()},
		{"the bucket is missing", func(s scene) scene {
			s.proxy.URL = strings.Replace(s.proxy.URL, "test-", "missing-", 1)
			if s.kind == emulators.Google {
				s.proxy.Arm(1000, blobtest.Anything, noGoogleBucket)
			}
			return s
		}, "create it", emulators.Kinds()},
		{"the region is wrong", func(s scene) scene {
			s.proxy.URL = strings.Replace(s.proxy.URL, "us-east-1", "eu-west-1", 1)
			return s
		}, "in another region", []emulators.Kind{emulators.Amazon}},
		{"the region is wrong, and the right one is told", func(s scene) scene {
			s.proxy.Arm(1000, blobtest.Anything, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
				w.Header().Set("X-Amz-Bucket-Region", "eu-central-1")
				blobtest.Answer(http.StatusMovedPermanently)(w, r, forward)
			})
			return s
		}, "in another region, eu-central-1", []emulators.Kind{emulators.Amazon}},
		{"the request is not understood", func(s scene) scene {
			s.proxy.Arm(1000, blobtest.Anything, blobtest.Answer(http.StatusBadRequest))
			return s
		}, "refuses the request: 400", emulators.Kinds()},
	} {
		t.Run(tc.why, func(t *testing.T) {
			onClouds(t, tc.kinds, patient, func(t *testing.T, s scene) {
				s = tc.spoil(s)
				for name, err := range use(t, blob.Impatient(open(t, s.proxy.URL), patient)) {
					switch {
					case err == nil || errs.KindOf(err) != errs.Internal:
						t.Errorf("%s: error %v, want one of ours", name, err)
					case !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n"):
						t.Errorf("%s: error %q, want one line with %q", name, err, tc.want)
					}
				}
			})
		})
	}
}
