package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
)

// answerGrace is how long answers that are being written have when the delegate ends.
const answerGrace = 500 * time.Millisecond

// server is the control API. The client in package control says what each call means.
type server struct {
	*runner
	http    *http.Server
	answers *answers
}

func newServer(r *runner) *server {
	s := &server{runner: r, answers: newAnswers()}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelWarn),
		ConnState:         s.answers.note,
	}
	return s
}

// serve answers until ctx ends. Calls under way are then given up: their clients learn it from the cut connection.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	d := newDispatcher(s.runner, l)
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.http.Serve(d.control); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.stop(fmt.Errorf("control API: %w", err))
		}
	})
	err := d.run(ctx, l)
	// Long polls end with ctx; an answer that is being written, such as that to poweroff, has a moment to go out.
	s.answers.await(answerGrace)
	_ = s.http.Close() // whoever is still reading has had its chance
	serving.Wait()
	return err
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]handler{
		"GET /v1/status":              s.getStatus,
		"PUT /v1/key":                 s.putKey,
		"PUT /v1/limit":               s.putLimit,
		"GET /v1/devices":             s.getDevices,
		"POST /v1/devices/{n}/detach": s.postDetach,
		"POST /v1/tasks":              s.postTask,
		"GET /v1/tasks":               s.getTasks,
		"GET /v1/tasks/{id}":          s.getTask,
		"DELETE /v1/tasks/{id}":       s.deleteTask,
		"PUT /v1/tasks/{id}/known":    s.putKnown,
		"PUT /v1/tasks/{id}/baseline": s.putBaseline,
		"GET /v1/tasks/{id}/wanted":   s.getWanted,
		"PUT /v1/tasks/{id}/blocks":   s.putBlocks,
		"GET /v1/tasks/{id}/journal":  s.getJournal,
		"GET /v1/events":              s.getEvents,
		"POST /v1/poweroff":           s.postPowerOff,
		"/":                           notFound,
	} {
		mux.Handle(pattern, s.wrap(h))
	}
	return mux
}

// handler answers a call or returns an error, best a *control.Error.
type handler func(w http.ResponseWriter, r *http.Request) error

// wrap notes that the orchestrator speaks, and turns errors and panics into answers. Who calls was checked with the connection.
func (s *server) wrap(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.speak()
		defer s.speak()
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("panic in the control API", "call", r.Method+" "+r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				s.answerError(w, r, errors.New("defect of the delegate: see its events"))
			}
		}()
		if err := h(w, r); err != nil {
			s.answerError(w, r, err)
		}
	})
}

func (s *server) answerError(w http.ResponseWriter, r *http.Request, err error) {
	var answer *control.Error
	if !errors.As(err, &answer) {
		answer = control.NewError(control.CodeInternal, err)
	}
	if answer.Status >= http.StatusInternalServerError {
		s.log.Error("control API", "call", r.Method+" "+r.URL.Path, "cause", answer.Message)
	}
	if err := writeJSON(w, answer.Status, answer); err != nil {
		s.log.Warn("control API: answer lost", "call", r.Method+" "+r.URL.Path, "cause", err)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(body)
	return err
}

func notFound(_ http.ResponseWriter, r *http.Request) error {
	return control.NewError(control.CodeNotFound, fmt.Errorf("no call %s %.100q: orchestrator and delegate are of different versions, upgrade the older", r.Method, r.URL.Path))
}

// readJSON decodes a small request body and refuses what it does not know. Its errors do not repeat values: some are secret.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	return readJSONUpTo(control.MaxJSON, w, r, v)
}

func readJSONUpTo(limit int64, w http.ResponseWriter, r *http.Request, v any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if err == nil {
		if _, next := decoder.Token(); !errors.Is(next, io.EOF) {
			err = errors.New("something follows the JSON value")
		}
	}
	if err != nil {
		return bodyError(err)
	}
	return nil
}

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return control.NewError(control.CodeTooLarge, fmt.Errorf("the body is larger than %d bytes", tooLarge.Limit))
	}
	return control.NewError(control.CodeInvalid, fmt.Errorf("request body: %w", err))
}

// queryInt reads a number of the query; absent is the default.
func queryInt(r *http.Request, name string, standard, low, high int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return standard, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < low || n > high {
		return 0, control.NewError(control.CodeInvalid, fmt.Errorf("query %s=%.40q: it is a number from %d to %d", name, text, low, high))
	}
	return n, nil
}

// longPoll returns a context that ends when the client has waited as long as it wants to.
func longPoll(r *http.Request) (context.Context, context.CancelFunc, error) {
	wait := time.Duration(0)
	if text := r.URL.Query().Get("wait"); text != "" {
		var err error
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 {
			return nil, nil, control.NewError(control.CodeInvalid, fmt.Errorf("query wait=%.40q: it is a duration such as 30s", text))
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), min(wait, control.MaxWait))
	return ctx, cancel, nil
}
