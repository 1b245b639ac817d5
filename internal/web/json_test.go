package web_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/web"
)

type upload struct {
	HMACKey string `json:"hmacKey"`
	Keys    []struct {
		Key    string `json:"key"`
		Period int32  `json:"rollingPeriod"`
	} `json:"keys"`
	Traveler bool `json:"traveler"`
}

const limit = 200

func TestReadJSON(t *testing.T) {
	t.Parallel()
	const kind = "application/json"
	for _, tc := range []struct {
		why        string
		kind, body string
		status     int
		message    string // of the refusal
	}{
		{"an object", kind, `{"hmacKey":"x","keys":[{"key":"y","rollingPeriod":144}],"traveler":true}`, 200, ""},
		{"names in another case", kind, `{"HmacKEY":"x"}`, 200, ""},
		{"an empty object", kind, `{}`, 200, ""},
		{"space around", kind, " \n\t{}\r\n ", 200, ""},
		{"just short enough", kind, padded(limit), 200, ""},
		{"a charset", "application/json; charset=utf-8", `{}`, 200, ""},
		{"a type in another case", "Application/JSON", `{}`, 200, ""},

		{"no type", "", `{}`, 415, "the content type must be application/json"},
		{"another type", "text/plain", `{}`, 415, "the content type must be application/json"},
		{"a type that only starts right", "application/jsonp", `{}`, 415, "the content type must be application/json"},
		{"a broken type", "application/json; ;=", `{}`, 415, "the content type must be application/json"},

		{"one byte too many", kind, padded(limit + 1), 413, "the body must not be longer than 200 bytes"},

		{"nothing", kind, "", 400, "the body must be a JSON object"},
		{"only space", kind, " ", 400, "the body must be a JSON object"},
		{"null is no object", kind, "null", 400, "the body must be a JSON object"},
		{"a list", kind, "[{}]", 400, "the body must be a JSON object"},
		{"a string", kind, `"s3same"`, 400, "the body must be a JSON object"},
		{"not JSON", kind, `{"hmacKey" s3same}`, 400, "the body is not JSON at byte 12"},
		{"cut short", kind, `{"hmacKey":"s3sa`, 400, "the body is not JSON: it ends early"},
		{"two objects", kind, `{}{}`, 400, "the body must be one JSON object and nothing after it"},
		{"more after it", kind, `{} s3same`, 400, "the body must be one JSON object and nothing after it"},
		{"an unknown member", kind, `{"s3same":1}`, 400, "a member of the body is unknown, or its value is not allowed"},
		{"an unknown member inside", kind, `{"keys":[{"s3same":1}]}`, 400, "a member of the body is unknown, or its value is not allowed"},
		{"a number for a string", kind, `{"hmacKey":33}`, 400, "the value of hmacKey must be a string"},
		{"a string for a number", kind, `{"keys":[{"rollingPeriod":"s3same"}]}`, 400, "the value of keys.rollingPeriod must be a whole number that fits int32"},
		{"a number too big", kind, `{"keys":[{"rollingPeriod":3000000000}]}`, 400, "the value of keys.rollingPeriod must be a whole number that fits int32"},
		{"a fraction", kind, `{"keys":[{"rollingPeriod":1.5}]}`, 400, "the value of keys.rollingPeriod must be a whole number that fits int32"},
		{"an object for a list", kind, `{"keys":{}}`, 400, "the value of keys must be a list"},
		{"a string for an object", kind, `{"keys":["s3same"]}`, 400, "the value of keys must be an object"},
		{"a word for a truth", kind, `{"traveler":"yes"}`, 400, "the value of traveler must be true or false"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			var got error
			url := serve(t, web.Wrap(func(w http.ResponseWriter, r *http.Request) error {
				if got = web.ReadJSON(w, r, limit, new(upload)); got != nil {
					return got
				}
				return ok(w, r)
			}))
			a, _ := send(t, http.MethodPost, url, tc.kind, tc.body)
			if a.Status != tc.status {
				t.Errorf("status %d, want %d: %v", a.Status, tc.status, got)
			}
			if got == nil {
				return
			}
			if message := errs.MessageOf(got); message != tc.message || errs.CodeOf(got) != "bad_request" {
				t.Errorf("refused with %s %q, want bad_request %q", errs.CodeOf(got), message, tc.message)
			}
			if strings.Contains(got.Error(), "s3same") {
				t.Error("the error repeats the body")
			}
		})
	}
}

func TestReadJSONFills(t *testing.T) {
	t.Parallel()
	var got upload
	url := serve(t, web.Wrap(func(w http.ResponseWriter, r *http.Request) error {
		if err := web.ReadJSON(w, r, limit, &got); err != nil {
			return err
		}
		return ok(w, r)
	}))
	send(t, http.MethodPost, url, "application/json", `{"hmackey":"x","Keys":[{"KEY":"y","rollingperiod":144}]}`)
	want := upload{HMACKey: "x"}
	want.Keys = append(want.Keys, struct {
		Key    string `json:"key"`
		Period int32  `json:"rollingPeriod"`
	}{"y", 144})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

// A body without a length is measured while it is read, by ReadJSON and at the
// door, whichever is tighter.
func TestLongBodyWithoutALength(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why         string
		door, limit int64
		want        string
	}{
		{"refused by the reader", 1000, limit, "the body must not be longer than 200 bytes"},
		{"refused at the door", 100, limit, "the body must not be longer than 100 bytes"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			url := serve(t, web.MaxBytes(tc.door, web.Wrap(func(w http.ResponseWriter, r *http.Request) error {
				return web.ReadJSON(w, r, tc.limit, new(upload))
			})))
			body := struct{ *strings.Reader }{strings.NewReader(padded(500))} // a type whose length net/http does not know
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var got struct{ Error string }
			if err := decodeJSON(resp, &got); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusRequestEntityTooLarge || got.Error != tc.want {
				t.Errorf("status %d, %q; want 413, %q", resp.StatusCode, got.Error, tc.want)
			}
		})
	}
}

func TestWriteJSONOfWhatIsNoJSONIsOurFault(t *testing.T) {
	t.Parallel()
	url := serve(t, web.Wrap(func(w http.ResponseWriter, _ *http.Request) error {
		web.WriteJSON(w, http.StatusOK, unwritable{})
		return nil
	}))
	if got, _ := send(t, http.MethodGet, url, "", ""); got.Status != http.StatusInternalServerError {
		t.Errorf("status %d, want 500", got.Status)
	}
}

type unwritable struct{}

func (unwritable) MarshalJSON() ([]byte, error) { return nil, errors.New("no") }

// padded is an object of n bytes.
func padded(n int) string {
	const frame = `{"hmacKey":""}`
	return `{"hmacKey":"` + strings.Repeat("x", n-len(frame)) + `"}`
}
