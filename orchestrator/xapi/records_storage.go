package xapi

// Values of VBD.Type and VBD.Mode.
const (
	TypeDisk  = "Disk"
	TypeCD    = "CD"
	ModeRead  = "RO"
	ModeWrite = "RW"
)

// VBD joins a VM with a disk.
type VBD struct {
	UUID               string            `json:"uuid"`
	VM                 Ref               `json:"VM"`
	VDI                Ref               `json:"VDI"`        // null when Empty
	UserDevice         string            `json:"userdevice"` // position, a number in decimal
	Device             string            `json:"device"`     // name in the guest, a hint
	Bootable           bool              `json:"bootable"`
	Mode               string            `json:"mode"`
	Type               string            `json:"type"`
	Unpluggable        bool              `json:"unpluggable"`
	Empty              bool              `json:"empty"`
	CurrentlyAttached  bool              `json:"currently_attached"`
	AllowedOperations  []string          `json:"allowed_operations"`
	CurrentOperations  map[string]string `json:"current_operations"`
	OtherConfig        map[string]string `json:"other_config"`
	QoSAlgorithmType   string            `json:"qos_algorithm_type"`
	QoSAlgorithmParams map[string]string `json:"qos_algorithm_params"`
}

// VDI is a disk, a snapshot of one, or an internal node of a chain (Managed false).
type VDI struct {
	UUID                string            `json:"uuid"`
	NameLabel           string            `json:"name_label"`
	NameDescription     string            `json:"name_description"`
	SR                  Ref               `json:"SR"`
	VBDs                []Ref             `json:"VBDs"`
	VirtualSize         int64             `json:"virtual_size"`         // what the guest sees; rounded up by the SR
	PhysicalUtilisation int64             `json:"physical_utilisation"` // may lag until a scan
	Type                string            `json:"type"`
	Sharable            bool              `json:"sharable"`
	ReadOnly            bool              `json:"read_only"`
	Managed             bool              `json:"managed"`
	Missing             bool              `json:"missing"`
	Location            string            `json:"location"`
	IsASnapshot         bool              `json:"is_a_snapshot"`
	SnapshotOf          Ref               `json:"snapshot_of"`
	SnapshotTime        Time              `json:"snapshot_time"`
	Snapshots           []Ref             `json:"snapshots"`
	CBTEnabled          bool              `json:"cbt_enabled"` // false on hosts before 7.3
	OnBoot              string            `json:"on_boot"`
	AllowCaching        bool              `json:"allow_caching"`
	AllowedOperations   []string          `json:"allowed_operations"`
	CurrentOperations   map[string]string `json:"current_operations"`
	OtherConfig         map[string]string `json:"other_config"`
	SMConfig            map[string]string `json:"sm_config"` // the driver's own; never copied to another VDI
	XenstoreData        map[string]string `json:"xenstore_data"`
	Tags                []string          `json:"tags"`
	IsToolsISO          bool              `json:"is_tools_iso"`
}

// SR is a storage repository. Sizes may be -1 or stale until a scan (xapi-facts §2, §6.7).
type SR struct {
	UUID                string            `json:"uuid"`
	NameLabel           string            `json:"name_label"`
	NameDescription     string            `json:"name_description"`
	Type                string            `json:"type"`
	ContentType         string            `json:"content_type"`
	Shared              bool              `json:"shared"` // usable on a host only with that host's PBD plugged
	PhysicalSize        int64             `json:"physical_size"`
	PhysicalUtilisation int64             `json:"physical_utilisation"`
	VirtualAllocation   int64             `json:"virtual_allocation"`
	VDIs                []Ref             `json:"VDIs"`
	PBDs                []Ref             `json:"PBDs"`
	AllowedOperations   []string          `json:"allowed_operations"`
	CurrentOperations   map[string]string `json:"current_operations"`
	OtherConfig         map[string]string `json:"other_config"`
	SMConfig            map[string]string `json:"sm_config"`
	Tags                []string          `json:"tags"`
	IsToolsSR           bool              `json:"is_tools_sr"`
}

// PBD joins a host with an SR.
type PBD struct {
	UUID              string            `json:"uuid"`
	Host              Ref               `json:"host"`
	SR                Ref               `json:"SR"`
	DeviceConfig      map[string]string `json:"device_config"`
	CurrentlyAttached bool              `json:"currently_attached"` // plugged
	OtherConfig       map[string]string `json:"other_config"`
}
