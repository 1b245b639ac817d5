package secretstest

import (
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// Roots writes a file with the certificate that all fake servers of a process
// show: what SSL_CERT_FILE wants. A process reads that variable once; a test
// that is to trust the servers sets it in TestMain.
func Roots(dir string) (path string, err error) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	path = filepath.Join(dir, "roots.pem")
	return path, os.WriteFile(path, text, 0o600)
}

// serve starts a server whose answers fail as the stock says.
func serve(tb testing.TB, stock *Stock, handler http.HandlerFunc) (address, roots string) {
	tb.Helper()
	server := httptest.NewTLSServer(faulty(stock, handler))
	tb.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	roots, err := Roots(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return server.URL, roots
}

// faulty breaks answers to questions; what comes before those, logins and
// challenges, always works.
func faulty(stock *Stock, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		record := httptest.NewRecorder()
		next(record, r)
		fault := Fault("")
		if name := record.Header().Get(question); name != "" {
			fault = stock.fails(name)
		}
		record.Header().Del(question)
		answer(w, r, record, fault)
	}
}

// question is the header in which a handler says for which secret it was asked.
const question = "X-Question"

func answer(w http.ResponseWriter, r *http.Request, record *httptest.ResponseRecorder, fault Fault) {
	if fault == Unavailable {
		http.Error(w, `{"errors":["sealed"]}`, http.StatusServiceUnavailable)
		return
	}
	body := record.Body.Bytes()
	maps.Copy(w.Header(), record.Header())
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(record.Code)
	if fault == "" {
		_, _ = w.Write(body) // the client may be gone
		return
	}
	_, _ = w.Write(body[:len(body)/2])
	_ = http.NewResponseController(w).Flush()
	if fault == Stalled {
		<-r.Context().Done()
	}
	panic(http.ErrAbortHandler)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the recorder takes everything
}
