package remote_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/remote"
)

const limit = 1000

func development(string, bool) error { return nil }

func production(name string, set bool) error {
	if set {
		return fmt.Errorf("%s is for development", name)
	}
	return nil
}

// server serves over TLS, silently.
func server(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// caFile holds the certificate that all servers of httptest show.
func caFile(t *testing.T, s *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func client(t *testing.T, s remote.Settings) *remote.Client {
	t.Helper()
	c, err := remote.New(s, remote.Deps{DevelopmentOnly: development})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// strict trusts a server, and reaches no other private address.
func strict(t *testing.T, s *httptest.Server, timeout time.Duration) *remote.Client {
	t.Helper()
	c := client(t, remote.Settings{CAFile: caFile(t, s), Timeout: timeout})
	c.Admit(netip.MustParseAddrPort(s.Listener.Addr().String()))
	return c
}

func zipped(content []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(content)
	_ = w.Close()
	return out.Bytes()
}

// raw answers with these very bytes, and hangs up.
func raw(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, answer)
		_ = conn.Close()
	}
}

func write(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func encoded(encoding string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", encoding)
		_, _ = w.Write(body)
	}
}

// drip sends a byte now and then until the client has enough of it.
func drip(first func(w http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		first(w)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
			}
		}
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

// Each row is one path of one server that may do as it likes.
func TestHostileServers(t *testing.T) {
	t.Parallel()
	const fast, slow = 20 * time.Second, 200 * time.Millisecond
	inner := server(t, write("a secret"))
	plain := httptest.NewServer(write("plain"))
	t.Cleanup(plain.Close)
	gone := closed(t)
	full := strings.Repeat("x", limit)
	for i, tc := range []struct {
		why     string
		h       http.HandlerFunc
		timeout time.Duration
		want    string
		kind    errs.Kind
		code    string
	}{
		{"a good one", write("hello"), fast, "hello", 0, ""},
		{"nothing at all is an answer", write(""), fast, "", 0, ""},
		{"all that is allowed", write(full), fast, full, 0, ""},
		{"one byte more", write(full + "x"), fast, "", errs.KindInvalid, "remote_too_large"},
		{"huge, and it says so", raw("HTTP/1.1 200 OK\r\nContent-Length: 9000000000\r\n\r\n"), fast, "", errs.KindInvalid, "remote_too_large"},
		{"huge, and it does not", endless, fast, "", errs.KindInvalid, "remote_too_large"},
		{"no answer", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, slow, "", errs.Internal, "remote_slow"},
		{"a slow drip", drip(func(http.ResponseWriter) {}), slow, "", errs.Internal, "remote_slow"},
		{"a drip behind a length", drip(func(w http.ResponseWriter) { w.Header().Set("Content-Length", "1000") }), slow, "", errs.Internal, "remote_slow"},
		{"a header without end", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 200<<10)), fast, "", errs.Internal, "remote_broken"},
		{"compressed, unasked", encoded("gzip", zipped([]byte("hello"))), fast, "hello", 0, ""},
		{"a bomb", encoded("gzip", zipped(make([]byte, 10<<20))), fast, "", errs.KindInvalid, "remote_too_large"},
		{"a bomb that decodes to nothing", encoded("gzip", bytes.Repeat(zipped(nil), 1000)), fast, "", errs.KindInvalid, "remote_too_large"},
		{"no bomb but nonsense", encoded("gzip", []byte("this is not compressed")), fast, "", errs.Internal, "remote_broken"},
		{"compressed and cut", encoded("gzip", zipped([]byte(full))[:20]), fast, "", errs.Internal, "remote_broken"},
		{"another encoding", encoded("br", []byte("x")), fast, "", errs.KindInvalid, "remote_encoding"},
		{"redirected within", redirect("/0"), fast, "hello", 0, ""},
		{"in a circle", redirect("?"), fast, "", errs.KindInvalid, "remote_redirects"},
		{"to http", redirect(plain.URL), fast, "", errs.KindInvalid, "remote_scheme"},
		{"to a file", redirect("file:///etc/passwd"), fast, "", errs.KindInvalid, "remote_scheme"},
		{"to a private address", redirect(inner.URL), fast, "", errs.KindInvalid, "remote_address"},
		{"to a private name", redirect("https://localhost:" + port(inner)), fast, "", errs.KindInvalid, "remote_address"},
		{"to where clouds keep secrets", redirect("https://169.254.169.254/latest/meta-data/"), fast, "", errs.KindInvalid, "remote_address"},
		{"with a password", redirect("https://user:password@example.com/"), fast, "", errs.KindInvalid, "remote_userinfo"},
		{"to nowhere", redirect(""), fast, "", errs.KindInvalid, "remote_redirects"},
		{"without saying where", status(http.StatusFound), fast, "", errs.Internal, "remote_status"},
		{"not there", status(http.StatusNotFound), fast, "", errs.KindNotFound, "remote_not_found"},
		{"gone", status(http.StatusGone), fast, "", errs.KindNotFound, "remote_not_found"},
		{"not allowed, which may change", status(http.StatusForbidden), fast, "", errs.Internal, "remote_status"},
		{"stumbling", status(http.StatusBadGateway), fast, "", errs.Internal, "remote_status"},
		{"no content", status(http.StatusNoContent), fast, "", errs.Internal, "remote_status"},
		{"a part that was not asked for", status(http.StatusPartialContent), fast, "", errs.Internal, "remote_status"},
		{"cut", raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of"), fast, "", errs.Internal, "remote_broken"},
		{"cut between chunks", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), fast, "", errs.Internal, "remote_broken"},
		{"cut where nobody can tell", raw("HTTP/1.0 200 OK\r\n\r\nhalf of"), fast, "", errs.KindInvalid, "remote_length"},
		{"hangs up", raw(""), fast, "", errs.Internal, "remote_broken"},
		{"not HTTP", raw("SSH-2.0-OpenSSH\r\n"), fast, "", errs.Internal, "remote_broken"},
		{"redirected to a closed port", redirect(gone), fast, "", errs.KindInvalid, "remote_address"},
	} {
		t.Run(fmt.Sprint(i, " ", tc.why), func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			mux.HandleFunc("/", tc.h)
			mux.HandleFunc("/0", write("hello"))
			s := oldServer(t, mux)
			got, err := strict(t, s, tc.timeout).Get(t.Context(), s.URL+"/keys?token=secret", limit)
			checkRefusal(t, err, tc.kind, tc.code)
			if tc.want != string(got) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "?") {
				t.Errorf("the error tells the query: %v", err)
			}
		})
	}
}

// oldServer speaks HTTP/1.1 only, in which more can be broken.
func oldServer(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}

func port(s *httptest.Server) string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return port
}

// closed is a URL where nobody listens any more.
func closed(t *testing.T) string {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	address := s.Listener.Addr().String()
	s.Close()
	return "https://" + address
}

func checkRefusal(t *testing.T, err error, kind errs.Kind, code string) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if err == nil || errs.KindOf(err) != kind || errs.CodeOf(err) != code {
		t.Errorf("error of kind %d, %s: %v; want kind %d, %s", errs.KindOf(err), errs.CodeOf(err), err, kind, code)
	}
	if err != nil && strings.Contains(err.Error(), "127.0.0.1") && !strings.HasPrefix(err.Error(), "read https://127.0.0.1:") {
		t.Errorf("the error tells an address: %v", err)
	}
}

func TestWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	asked := make(chan *http.Request, 2)
	s := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		if r.URL.Path == "/a" {
			http.SetCookie(w, &http.Cookie{Name: "who", Value: "you", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
			http.Redirect(w, r, "/b", http.StatusFound)
		}
	}))
	if _, err := strict(t, s, 0).Get(t.Context(), s.URL+"/a?token=secret", limit); err != nil {
		t.Fatal(err)
	}
	want := http.Header{"User-Agent": {"enkeyserver"}, "Accept-Encoding": {"identity"}}
	for range 2 {
		r := <-asked
		if diff := cmp.Diff(want, r.Header); diff != "" {
			t.Errorf("headers of %s (-want +got):\n%s", r.URL.Path, diff)
		}
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	s := server(t, write("hello"))
	for _, tc := range []struct{ why, url, code string }{
		{"http", "http://example.com/", "remote_scheme"},
		{"a file", "file:///etc/passwd", "remote_scheme"},
		{"no scheme", "example.com/keys", "remote_scheme"},
		{"nothing", "", "remote_scheme"},
		{"no host", "https:///keys", "remote_url"},
		{"a port alone", "https://:443/keys", "remote_url"},
		{"no slashes", "https:example.com", "remote_url"},
		{"what no parser takes", "https://example.com/%zz?token=secret", "remote_url"},
		{"a user", "https://user@example.com/", "remote_userinfo"},
		{"a password", "https://user:secret@example.com/", "remote_userinfo"},
		{"this machine", s.URL, "remote_address"},
		{"this machine, by name", "https://localhost:" + port(s), "remote_address"},
		{"this machine, in IPv6", "https://[::1]:" + port(s), "remote_address"},
		{"this machine, in the dress of IPv6", "https://[::ffff:127.0.0.1]:" + port(s), "remote_address"},
		{"this machine, in hexadecimal dress", "https://[::ffff:7f00:1]:" + port(s), "remote_address"},
		{"this machine, as no address", "https://0.0.0.0:" + port(s), "remote_address"},
		{"this machine, as no address in IPv6", "https://[::]:" + port(s), "remote_address"},
		{"a neighbour", "https://192.168.1.1/", "remote_address"},
		{"secrets of clouds", "https://169.254.169.254/", "remote_address"},
		{"secrets of clouds, in IPv6", "https://[fd00:ec2::254]/", "remote_address"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := client(t, remote.Settings{CAFile: caFile(t, s)}).Get(t.Context(), tc.url, limit)
			if errs.KindOf(err) != errs.KindInvalid || errs.CodeOf(err) != tc.code {
				t.Errorf("error %s: %v; want %s", errs.CodeOf(err), err, tc.code)
			}
			if strings.Contains(fmt.Sprint(err), "secret") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestPublicAddresses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		address string
		want    bool
	}{
		{"8.8.8.8", true},
		{"1.1.1.1", true},
		{"172.15.255.255", true}, // beside a private one
		{"172.32.0.0", true},
		{"100.63.255.255", true},
		{"100.128.0.0", true},
		{"2606:4700:4700::1111", true},
		{"2a00:1450:4001:80e::200e", true},
		{"64:ff9b::808:808", true}, // 8.8.8.8 behind a translator
		{"0.0.0.0", false},
		{"0.1.2.3", false},
		{"10.0.0.1", false},
		{"100.64.0.1", false},
		{"100.100.100.200", false}, // a cloud's secrets
		{"127.0.0.1", false},
		{"127.255.255.254", false},
		{"168.63.129.16", false},
		{"169.254.169.254", false},
		{"172.16.0.1", false},
		{"172.31.255.255", false},
		{"192.0.0.192", false},
		{"192.0.2.1", false},
		{"192.88.99.1", false},
		{"192.168.0.1", false},
		{"198.18.0.1", false},
		{"198.51.100.1", false},
		{"203.0.113.1", false},
		{"224.0.0.1", false},
		{"255.255.255.255", false},
		{"::", false},
		{"::1", false},
		{"::7f00:1", false}, // 127.0.0.1, compatible
		{"::ffff:127.0.0.1", false},
		{"::ffff:8.8.8.8", false},
		{"64:ff9b::7f00:1", false},    // 127.0.0.1 behind a translator
		{"64:ff9b::a9fe:a9fe", false}, // 169.254.169.254 behind one
		{"64:ff9b:1::808:808", false},
		{"100::1", false},
		{"2001::1", false},
		{"2001:db8::1", false},
		{"2002:7f00:1::", false},
		{"3fff::1", false},
		{"fc00::1", false},
		{"fd00:ec2::254", false},
		{"fe80::1", false},
		{"fe80::1%eth0", false},
		{"2606:4700:4700::1111%eth0", false}, // nothing public has a zone
		{"fec0::1", false},
		{"ff02::1", false},
	} {
		if got := remote.Public(netip.MustParseAddr(tc.address)); got != tc.want {
			t.Errorf("%s public: %t, want %t", tc.address, got, tc.want)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := server(t, write("hello"))
	plain := httptest.NewServer(write("plain"))
	t.Cleanup(plain.Close)
	old := httptest.NewUnstartedServer(write("hello"))
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	t.Cleanup(old.Close)
	for _, tc := range []struct {
		why      string
		settings remote.Settings
		url      string
		want     string // in the error
	}{
		{"trusted", remote.Settings{CAFile: caFile(t, s)}, s.URL, ""},
		{"nobody vouches for it", remote.Settings{}, s.URL, "nobody we trust vouches"},
		{"for another name", remote.Settings{CAFile: caFile(t, s)}, "https://localhost:" + port(s), "for another name"},
		{"no TLS", remote.Settings{CAFile: caFile(t, s)}, "https://" + plain.Listener.Addr().String(), "does not speak TLS"},
		{"TLS of long ago", remote.Settings{CAFile: caFile(t, s)}, old.URL, "refuses our TLS"},
		{"nobody there", remote.Settings{}, closed(t), "connection refused"},
		{"no such name", remote.Settings{}, "https://nobody.invalid/", "does not resolve"},
		{"http in development", remote.Settings{}, plain.URL, ""},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			tc.settings.AllowPrivate = true
			_, err := client(t, tc.settings).Get(t.Context(), tc.url, limit)
			if (err == nil) != (tc.want == "") || !strings.Contains(fmt.Sprint(err), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if errs.KindOf(err) != errs.Internal {
				t.Errorf("kind %d: asking again may help", errs.KindOf(err))
			}
		})
	}
}

// In development http is allowed, but nobody is led from https to it.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(write("plain"))
	t.Cleanup(plain.Close)
	s := server(t, redirect(plain.URL))
	_, err := client(t, remote.Settings{AllowPrivate: true, CAFile: caFile(t, s)}).Get(t.Context(), s.URL, limit)
	checkRefusal(t, err, errs.KindInvalid, "remote_scheme")
}

// The proxy of the environment would dial for us what we may not.
func TestNoProxy(t *testing.T) {
	proxy := httptest.NewServer(write("from the proxy"))
	t.Cleanup(proxy.Close)
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	_, err := client(t, remote.Settings{AllowPrivate: true}).Get(t.Context(), "http://nobody.invalid/", limit)
	checkRefusal(t, err, errs.Internal, "remote_broken")
}

// A body that comes fast enough earns its time, however long it is.
func TestLongBody(t *testing.T) {
	t.Parallel()
	const size = 4 << 20 // earns a minute
	begun := time.Now()
	s := server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, size-1))
		_ = http.NewResponseController(w).Flush()
		<-time.After(1500*time.Millisecond - time.Since(begun))
		_, _ = w.Write([]byte{1})
	}))
	var into bytes.Buffer
	n, err := strict(t, s, time.Second).Download(t.Context(), s.URL, size, &into)
	if err != nil || n != size || into.Len() != size {
		t.Errorf("downloaded %d of %d: %v", n, size, err)
	}
}

type full struct{}

var errFull = errors.New("no space left")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestFailuresThatAreNotTheServers(t *testing.T) {
	t.Parallel()
	s := server(t, write("hello"))
	c := strict(t, s, 0)
	if _, err := c.Download(t.Context(), s.URL, limit, full{}); !errors.Is(err, errFull) {
		t.Errorf("a full disk is told as %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(over, s.URL, limit); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who went away is told as %v", err)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	nothing := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(nothing, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		why      string
		settings remote.Settings
		want     string
	}{
		{"nothing set", remote.Settings{}, ""},
		{"private addresses in production", remote.Settings{AllowPrivate: true}, "REMOTE_ALLOW_PRIVATE is for development"},
		{"no file", remote.Settings{CAFile: nothing + ".no"}, "REMOTE_CA_FILE: open"},
		{"no certificate in it", remote.Settings{CAFile: nothing}, "holds no certificate in PEM"},
	} {
		_, err := remote.New(tc.settings, remote.Deps{DevelopmentOnly: production})
		if (err == nil) != (tc.want == "") || !strings.Contains(fmt.Sprint(err), tc.want) {
			t.Errorf("%s: error %v, want %q", tc.why, err, tc.want)
		}
	}
}
