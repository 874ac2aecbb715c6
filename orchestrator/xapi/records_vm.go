package xapi

// The records hold what a replication product reads or carries over; names are the API's. A field that a host
// lacks stays zero (xapi-facts §5 tells which came when). Times are UTC, memory and sizes bytes.

// Power states (VM.PowerState).
const (
	Halted    = "Halted"
	Paused    = "Paused"
	Running   = "Running"
	Suspended = "Suspended"
)

// VM is a virtual machine, a template, a snapshot or a control domain.
type VM struct {
	UUID              string            `json:"uuid"`
	NameLabel         string            `json:"name_label"`
	NameDescription   string            `json:"name_description"`
	PowerState        string            `json:"power_state"`
	AllowedOperations []string          `json:"allowed_operations"` // a hint that may lag
	CurrentOperations map[string]string `json:"current_operations"` // task → operation
	BlockedOperations map[string]string `json:"blocked_operations"` // operation → reason
	OtherConfig       map[string]string `json:"other_config"`
	XenstoreData      map[string]string `json:"xenstore_data"`
	Tags              []string          `json:"tags"`

	IsATemplate       bool              `json:"is_a_template"` // true for snapshots too
	IsDefaultTemplate bool              `json:"is_default_template"`
	IsASnapshot       bool              `json:"is_a_snapshot"`
	IsControlDomain   bool              `json:"is_control_domain"`
	SnapshotOf        Ref               `json:"snapshot_of"`
	SnapshotTime      Time              `json:"snapshot_time"`
	SnapshotInfo      map[string]string `json:"snapshot_info"`
	Snapshots         []Ref             `json:"snapshots"`
	Parent            Ref               `json:"parent"`
	Children          []Ref             `json:"children"`

	VBDs         []Ref `json:"VBDs"`
	VIFs         []Ref `json:"VIFs"`
	VTPMs        []Ref `json:"VTPMs"`
	VUSBs        []Ref `json:"VUSBs"`
	Metrics      Ref   `json:"metrics"`
	GuestMetrics Ref   `json:"guest_metrics"` // another one after each start
	ResidentOn   Ref   `json:"resident_on"`
	Affinity     Ref   `json:"affinity"`
	SuspendVDI   Ref   `json:"suspend_VDI"`
	SuspendSR    Ref   `json:"suspend_SR"`
	DomainID     int64 `json:"domid"`

	MemoryOverhead   int64 `json:"memory_overhead"`
	MemoryStaticMax  int64 `json:"memory_static_max"`
	MemoryStaticMin  int64 `json:"memory_static_min"`
	MemoryDynamicMax int64 `json:"memory_dynamic_max"`
	MemoryDynamicMin int64 `json:"memory_dynamic_min"`

	VCPUsMax       int64             `json:"VCPUs_max"`
	VCPUsAtStartup int64             `json:"VCPUs_at_startup"`
	VCPUsParams    map[string]string `json:"VCPUs_params"`

	DomainType              string            `json:"domain_type"` // "" on hosts before 7.5
	HVMBootPolicy           string            `json:"HVM_boot_policy"`
	HVMBootParams           map[string]string `json:"HVM_boot_params"`
	HVMShadowMultiplier     float64           `json:"HVM_shadow_multiplier"`
	PVBootloader            string            `json:"PV_bootloader"`
	PVBootloaderArgs        string            `json:"PV_bootloader_args"`
	PVKernel                string            `json:"PV_kernel"`
	PVRamdisk               string            `json:"PV_ramdisk"`
	PVArgs                  string            `json:"PV_args"`
	PVLegacyArgs            string            `json:"PV_legacy_args"`
	Platform                map[string]string `json:"platform"`
	NVRAM                   map[string]string `json:"NVRAM"`
	BIOSStrings             map[string]string `json:"bios_strings"`
	HardwarePlatformVersion int64             `json:"hardware_platform_version"`
	HasVendorDevice         bool              `json:"has_vendor_device"`
	GenerationID            string            `json:"generation_id"`
	Recommendations         string            `json:"recommendations"`
	ReferenceLabel          string            `json:"reference_label"`
	UserVersion             int64             `json:"user_version"`

	ActionsAfterShutdown string `json:"actions_after_shutdown"`
	ActionsAfterReboot   string `json:"actions_after_reboot"`
	ActionsAfterCrash    string `json:"actions_after_crash"`
	HARestartPriority    string `json:"ha_restart_priority"`
	Order                int64  `json:"order"`
	StartDelay           int64  `json:"start_delay"`    // seconds
	ShutdownDelay        int64  `json:"shutdown_delay"` // seconds
	Appliance            Ref    `json:"appliance"`
}

// VMMetrics holds what changes each time a VM runs.
type VMMetrics struct {
	UUID              string `json:"uuid"`
	StartTime         Time   `json:"start_time"`
	InstallTime       Time   `json:"install_time"`
	LastUpdated       Time   `json:"last_updated"`
	MemoryActual      int64  `json:"memory_actual"`
	VCPUsNumber       int64  `json:"VCPUs_number"`
	HVM               bool   `json:"hvm"`
	CurrentDomainType string `json:"current_domain_type"`
}

// GuestMetrics is what a guest says of itself: untrusted, and kept when the VM stops (xapi-facts §7.4).
type GuestMetrics struct {
	UUID               string            `json:"uuid"`
	OSVersion          map[string]string `json:"os_version"`
	Networks           map[string]string `json:"networks"` // "0/ip", "0/ipv4/0", "0/ipv6/0" → address
	Other              map[string]string `json:"other"`
	PVDriversVersion   map[string]string `json:"PV_drivers_version"`
	PVDriversDetected  bool              `json:"PV_drivers_detected"`
	CanUseHotplugVBD   string            `json:"can_use_hotplug_vbd"` // yes, no, unspecified
	CanUseHotplugVIF   string            `json:"can_use_hotplug_vif"`
	LastUpdated        Time              `json:"last_updated"`
	Live               bool              `json:"live"`
	NetBIOSName        map[string]string `json:"netbios_name"`
	OtherConfig        map[string]string `json:"other_config"`
	PVDriversUpToDate  bool              `json:"PV_drivers_up_to_date"`
	GuestAgentServices map[string]string `json:"services"`
}

// VIF is a network interface of a VM.
type VIF struct {
	UUID               string            `json:"uuid"`
	Device             string            `json:"device"` // a number in decimal
	VM                 Ref               `json:"VM"`
	Network            Ref               `json:"network"`
	MAC                string            `json:"MAC"`
	MACAutogenerated   bool              `json:"MAC_autogenerated"`
	MTU                int64             `json:"MTU"`
	CurrentlyAttached  bool              `json:"currently_attached"`
	OtherConfig        map[string]string `json:"other_config"`
	LockingMode        string            `json:"locking_mode"`
	IPv4Allowed        []string          `json:"ipv4_allowed"`
	IPv6Allowed        []string          `json:"ipv6_allowed"`
	QoSAlgorithmType   string            `json:"qos_algorithm_type"`
	QoSAlgorithmParams map[string]string `json:"qos_algorithm_params"`
}
