package tasks

import (
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/appliance/control"
)

func TestLimit(t *testing.T) {
	m, _ := world(t)
	if got := m.Limit(); got != 0 {
		t.Errorf("a new delegate is limited to %d", got)
	}
	for _, limit := range []int64{20e6, 1, 0} {
		if err := m.SetLimit(control.LimitRequest{BytesPerSecond: limit}); err != nil || m.Limit() != limit {
			t.Errorf("limit %d: it is %d, error %v", limit, m.Limit(), err)
		}
	}
	var answer *control.Error
	if err := m.SetLimit(control.LimitRequest{BytesPerSecond: -1}); !errors.As(err, &answer) || answer.Code != control.CodeInvalid {
		t.Errorf("a limit of -1: %v", err)
	}
}
