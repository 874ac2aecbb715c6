package report

// Check is a budget beside what was measured.
type Check struct {
	What   string
	Value  float64
	Budget float64
	Least  bool // Budget is the least that Value may be, not the most
}

// OK reports whether the budget holds.
func (c Check) OK() bool {
	if c.Least {
		return c.Value >= c.Budget
	}
	return c.Value <= c.Budget
}

// Ratios returns the check of every row whose wall time has a budget against ours.
func Ratios(rows []Row) []Check {
	var checks []Check
	for _, c := range Cases(rows) {
		ours, measured := c.Tool(Understudy)
		for _, r := range c.Rows {
			if measured && r.Tool != Understudy && r.Allowed != nil {
				checks = append(checks, Check{What: c.Name + ": wall ÷ " + r.Tool, Value: ours.Wall / r.Wall, Budget: *r.Allowed})
			}
		}
	}
	return checks
}

func verdict(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}
