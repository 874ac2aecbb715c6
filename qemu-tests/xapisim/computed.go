package xapisim

// computed are the fields that follow from others. They are worked out whenever they are read, and so never stale; an
// event tells of a change in them with the change that they follow from.
var computed = map[relation]func(*Pool, *object) any{
	{"VM", "allowed_operations"}:  vmAllowed,
	{"VM", "memory_overhead"}:     func(_ *Pool, vm *object) any { return overhead(vm) },
	{"VBD", "allowed_operations"}: vbdAllowed,
	{"VIF", "allowed_operations"}: vifAllowed,
	{"VDI", "allowed_operations"}: func(p *Pool, vdi *object) any { return p.vdiAllowed(vdi) },
	{"SR", "allowed_operations"}:  srAllowed,
	{"host_metrics", "memory_free"}: func(p *Pool, metrics *object) any {
		for _, h := range p.db.tables["host"] {
			if h.text("metrics") == metrics.ref {
				return p.freeMemory(h)
			}
		}
		return int64(0)
	},
}
