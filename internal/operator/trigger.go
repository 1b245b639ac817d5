package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxJobAnswer bounds what is read of an answer: jobs say counts and names.
const maxJobAnswer = 1 << 20

func triggerCommands() []command {
	return []command{{
		name: "trigger", args: "URL...", short: "call scheduled jobs, once or again and again: a scheduler for where there is none",
		help: `
Calls (POST) one URL after the other, and shows what each job says it did. The
exit status is 1 unless all of them answered 200; the others are called all the
same. Calling a job again is always safe.

With -every it calls at once, and then each time that the span has passed, until
it is told to stop; a failure is said and the next turn goes on. A job that takes
longer than the span is not called twice at once.

  enctl trigger http://export-batcher:8080/create-batches
  enctl trigger -every 1m http://export-worker:8080/do-work`,
		build: buildTrigger,
	}}
}

func buildTrigger(flags *flag.FlagSet, s *Session) action {
	every := flags.Duration("every", 0, "call again after this time; 0: once")
	timeout := flags.Duration("timeout", 15*time.Minute, "how long to wait for an answer: longer than the job may take")
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if err := checkTrigger(args, *every, *timeout); err != nil {
			return err
		}
		t := &trigger{client: newTriggerClient(*timeout), out: out, problems: s.Err}
		if *every == 0 {
			return t.round(ctx, args)
		}
		t.again(ctx, *every, args)
		return nil
	}
}

func checkTrigger(urls []string, every, timeout time.Duration) error {
	if len(urls) == 0 {
		return usageError("say which URLs to call")
	}
	if every < 0 || timeout <= 0 {
		return usageError("-every and -timeout must be positive")
	}
	for _, u := range urls {
		if parsed, err := url.Parse(u); err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
			return usageError(fmt.Sprintf("%q is no URL that can be called: it must be like http://export-batcher:8080/create-batches", u))
		}
	}
	return nil
}

// newTriggerClient follows no redirect: no job of ours answers one, and after
// some of them the request would be a GET somewhere else.
func newTriggerClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// trigger calls jobs.
type trigger struct {
	client   *http.Client
	out      *output
	problems io.Writer
}

// again goes round until ctx ends. A turn that comes during a round is left out.
func (t *trigger) again(ctx context.Context, every time.Duration, urls []string) {
	turns := time.NewTicker(every)
	defer turns.Stop()
	for ctx.Err() == nil {
		if err := t.round(ctx, urls); err != nil && ctx.Err() == nil {
			fmt.Fprintf(t.problems, "enctl: %v\n", err)
		}
		select {
		case <-ctx.Done():
		case <-turns.C:
		}
	}
}

// round calls each URL once, whatever became of those before, and joins what
// went wrong into one line.
func (t *trigger) round(ctx context.Context, urls []string) error {
	var wrong []string
	for _, u := range urls {
		if err := t.call(ctx, u); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// jobAnswer is what a job said, for programs.
type jobAnswer struct {
	URL    string          `json:"url"`
	Status int             `json:"status"`
	Answer json.RawMessage `json:"answer"`
}

func (t *trigger) call(ctx context.Context, job string) error {
	status, body, err := t.post(ctx, job)
	if err != nil {
		return err
	}
	said := oneLineJSON(body)
	if status != http.StatusOK {
		return fmt.Errorf("%s answers %d: %s", job, status, said)
	}
	return t.out.line(jobAnswer{job, status, said}, "%s %s", job, said)
}

func (t *trigger) post(ctx context.Context, job string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, job, nil)
	if err != nil {
		return 0, nil, err
	}
	answer, err := t.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, maxJobAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("%s broke off its answer: %w", job, err)
	}
	return answer.StatusCode, body, nil
}

// oneLineJSON is JSON on one line, and a text that is none as a JSON string:
// what comes from a proxy in between cannot write lines of its own.
func oneLineJSON(body []byte) json.RawMessage {
	var line bytes.Buffer
	if json.Compact(&line, body) == nil {
		return line.Bytes()
	}
	text, _ := json.Marshal(string(bytes.TrimSpace(body))) // a string always can
	return text
}
