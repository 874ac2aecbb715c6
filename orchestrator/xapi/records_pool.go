package xapi

// Pool is the one record of a pool.
type Pool struct {
	UUID            string            `json:"uuid"`
	NameLabel       string            `json:"name_label"` // often empty for a single host
	NameDescription string            `json:"name_description"`
	Master          Ref               `json:"master"`
	DefaultSR       Ref               `json:"default_SR"` // may dangle
	SuspendImageSR  Ref               `json:"suspend_image_SR"`
	OtherConfig     map[string]string `json:"other_config"`
	Restrictions    map[string]string `json:"restrictions"`
	HAEnabled       bool              `json:"ha_enabled"`
	Tags            []string          `json:"tags"`
}

// Host is a member of a pool.
type Host struct {
	UUID            string            `json:"uuid"`
	NameLabel       string            `json:"name_label"`
	NameDescription string            `json:"name_description"`
	Hostname        string            `json:"hostname"`
	Address         string            `json:"address"` // management address
	Enabled         bool              `json:"enabled"` // false: maintenance
	APIVersionMajor int64             `json:"API_version_major"`
	APIVersionMinor int64             `json:"API_version_minor"`
	SoftwareVersion map[string]string `json:"software_version"`
	Capabilities    []string          `json:"capabilities"`
	MemoryOverhead  int64             `json:"memory_overhead"`
	ResidentVMs     []Ref             `json:"resident_VMs"`
	ControlDomain   Ref               `json:"control_domain"`
	PBDs            []Ref             `json:"PBDs"`
	Metrics         Ref               `json:"metrics"`
	OtherConfig     map[string]string `json:"other_config"`
	Tags            []string          `json:"tags"`
}

// HostMetrics says whether a host is alive. Its memory_free is left out: the data model calls it removed, and it
// may read 0; host.compute_free_memory tells.
type HostMetrics struct {
	UUID        string `json:"uuid"`
	Live        bool   `json:"live"`
	MemoryTotal int64  `json:"memory_total"`
	LastUpdated Time   `json:"last_updated"`
}

// Network is a network of a pool.
type Network struct {
	UUID            string            `json:"uuid"`
	NameLabel       string            `json:"name_label"`
	NameDescription string            `json:"name_description"`
	Bridge          string            `json:"bridge"`
	MTU             int64             `json:"MTU"`
	VIFs            []Ref             `json:"VIFs"`
	PIFs            []Ref             `json:"PIFs"`
	OtherConfig     map[string]string `json:"other_config"`
	Tags            []string          `json:"tags"`
}

// PIF is a network interface of a host.
type PIF struct {
	UUID              string `json:"uuid"`
	Device            string `json:"device"`
	Host              Ref    `json:"host"`
	Network           Ref    `json:"network"`
	Management        bool   `json:"management"` // carries the host's own address
	CurrentlyAttached bool   `json:"currently_attached"`
	IP                string `json:"IP"`
}

// Task is an operation in progress or finished.
type Task struct {
	UUID              string            `json:"uuid"`
	NameLabel         string            `json:"name_label"`
	NameDescription   string            `json:"name_description"`
	Status            string            `json:"status"`   // TaskPending and so on; written last
	Progress          float64           `json:"progress"` // 0 to 1
	Result            string            `json:"result"`   // XML-RPC value
	ErrorInfo         []string          `json:"error_info"`
	Created           Time              `json:"created"`
	Finished          Time              `json:"finished"`
	ResidentOn        Ref               `json:"resident_on"`
	AllowedOperations []string          `json:"allowed_operations"`
	CurrentOperations map[string]string `json:"current_operations"`
	OtherConfig       map[string]string `json:"other_config"`
	SubtaskOf         Ref               `json:"subtask_of"`
	Subtasks          []Ref             `json:"subtasks"`
}
