package appliance

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

func (s *server) getStatus(w http.ResponseWriter, _ *http.Request) error {
	s.mu.Lock()
	domain := s.configuration.domain
	s.mu.Unlock()
	return writeJSON(w, http.StatusOK, control.Status{
		Version:           s.options.Version,
		Protocol:          control.Version{Major: netproto.VersionMajor, Minor: netproto.VersionMinor},
		Nonce:             s.configuration.nonce,
		ConfigurationHash: s.configuration.hash,
		VM:                domain.VM,
		UniqueDomainID:    domain.UniqueID,
		Started:           s.started,
		UptimeSeconds:     time.Since(s.started).Seconds(),
		KeyID:             s.tasks.KeyID(),
		PeakRSSBytes:      peakRSS(),
		MemoryLimitBytes:  currentMemoryLimit(),
		Limit:             s.tasks.Limit(),
	})
}

func (s *server) putKey(w http.ResponseWriter, r *http.Request) error {
	var key control.KeyRequest
	if err := readJSON(w, r, &key); err != nil {
		return err
	}
	if err := s.tasks.SetKey(key); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) putLimit(w http.ResponseWriter, r *http.Request) error {
	var limit control.LimitRequest
	if err := readJSON(w, r, &limit); err != nil {
		return err
	}
	if err := s.tasks.SetLimit(limit); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) getDevices(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, s.devices.List())
}

func (s *server) postDetach(w http.ResponseWriter, r *http.Request) error {
	number, err := strconv.Atoi(r.PathValue("n"))
	if err != nil {
		return control.NewError(control.CodeInvalid, fmt.Errorf("device %.40q is no number", r.PathValue("n")))
	}
	if err := s.tasks.Detach(number); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) postTask(w http.ResponseWriter, r *http.Request) error {
	var spec control.TaskSpec
	if err := readJSONUpTo(control.MaxTask, w, r, &spec); err != nil {
		return err
	}
	status, created, err := s.tasks.Post(spec)
	if err != nil {
		return err
	}
	if created {
		return writeJSON(w, http.StatusCreated, status)
	}
	return writeJSON(w, http.StatusOK, status)
}

func (s *server) getTasks(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, s.tasks.List())
}

func (s *server) getTask(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel, err := longPoll(r)
	if err != nil {
		return err
	}
	defer cancel()
	status, err := s.tasks.Status(ctx, r.PathValue("id"), control.State(r.URL.Query().Get("seen")))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, status)
}

func (s *server) deleteTask(w http.ResponseWriter, r *http.Request) error {
	status, err := s.tasks.Cancel(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, status)
}

// bodyTimeout is how long the digests of the largest disk may take on a slow line.
const bodyTimeout = 10 * time.Minute

func (s *server) putKnown(w http.ResponseWriter, r *http.Request) error {
	if err := limitBody(w); err != nil {
		return err
	}
	if err := s.tasks.PutKnown(r.PathValue("id"), r.Body, r.ContentLength); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) putBaseline(w http.ResponseWriter, r *http.Request) error {
	sink, err := querySink(r)
	if err != nil {
		return err
	}
	if err := limitBody(w); err != nil {
		return err
	}
	if err := s.tasks.PutBaseline(r.PathValue("id"), sink, r.Body, r.ContentLength); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// limitBody keeps a client that stalls from holding a task's digests for ever.
func limitBody(w http.ResponseWriter) error {
	return http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
}

func querySink(r *http.Request) (int, error) {
	sink, err := queryInt(r, "sink", 0, 0, control.MaxSinks-1)
	return int(sink), err
}

func (s *server) getWanted(w http.ResponseWriter, r *http.Request) error {
	sink, err := querySink(r)
	if err != nil {
		return err
	}
	after, err := queryInt(r, "after", 0, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	ctx, cancel, err := longPoll(r)
	if err != nil {
		return err
	}
	defer cancel()
	page, err := s.tasks.Wanted(ctx, r.PathValue("id"), sink, after)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, page)
}

func (s *server) putBlocks(w http.ResponseWriter, r *http.Request) error {
	sink, err := querySink(r)
	if err != nil {
		return err
	}
	if r.ContentLength < 0 {
		return control.NewError(control.CodeInvalid, errors.New("the body's length must be told (Content-Length)"))
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, control.MaxBlocks))
	if err != nil {
		return bodyError(err)
	}
	records, err := control.DecodeRecords(body)
	if err != nil {
		return bodyError(err)
	}
	if err := s.tasks.PutBlocks(r.PathValue("id"), sink, records); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) getJournal(w http.ResponseWriter, r *http.Request) error {
	sink, err := querySink(r)
	if err != nil {
		return err
	}
	after, err := queryInt(r, "after", 0, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	limit, err := queryInt(r, "max", control.MaxJournal, 1, control.MaxJournal)
	if err != nil {
		return err
	}
	ctx, cancel, err := longPoll(r)
	if err != nil {
		return err
	}
	defer cancel()
	page, err := s.tasks.Journal(ctx, r.PathValue("id"), sink, after, int(limit))
	if err != nil {
		return err
	}
	var body []byte
	for _, record := range page.Records {
		body = manifest.AppendRecord(body, record)
	}
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set(control.HeaderSequence, strconv.FormatInt(page.Sequence, 10))
	header.Set(control.HeaderWatermark, strconv.FormatUint(uint64(page.Watermark), 10))
	header.Set(control.HeaderEnd, strconv.FormatBool(page.End))
	_, err = w.Write(body)
	return err
}

func (s *server) getEvents(w http.ResponseWriter, r *http.Request) error {
	after, err := queryInt(r, "after", 0, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	ctx, cancel, err := longPoll(r)
	if err != nil {
		return err
	}
	defer cancel()
	return writeJSON(w, http.StatusOK, s.events.Page(ctx, after))
}

// maxCause bounds the cause of a power-off in bytes: it becomes a value in XenStore (xapi-facts §7.1).
const maxCause = 512

func (s *server) postPowerOff(w http.ResponseWriter, r *http.Request) error {
	var request control.PowerOffRequest
	if err := readJSON(w, r, &request); err != nil {
		return err
	}
	if request.Cause == "" || len(request.Cause) > maxCause {
		return control.NewError(control.CodeInvalid, fmt.Errorf("cause has %d bytes: it has 1 to %d", len(request.Cause), maxCause))
	}
	w.WriteHeader(http.StatusAccepted)
	s.stop(ordered{request.Cause})
	return nil
}
