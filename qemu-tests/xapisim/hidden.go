package xapisim

import (
	"maps"
	"sync"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// storageFields are those that storage drivers alone set, through messages of which the published data model leaves most
// out, though every xapi knows them. To sessions that no driver was given they answer PERMISSION_DENIED (transcripts; xen-api
// ocaml/xapi/sm.ml, assert_session_has_internal_sr_access).
var storageFields = map[string][]string{
	"VDI": {
		"sharable", "managed", "read_only", "missing", "virtual_size", "physical_utilisation", "is_a_snapshot", "snapshot_of",
		"snapshot_time", "metadata_of_pool", "cbt_enabled",
	},
	"SR":  {"virtual_allocation", "physical_size", "physical_utilisation"},
	"PBD": {"device_config"},
}

// wholeModel is the published data model with the setters of storageFields that it lacks.
var wholeModel = sync.OnceValues(func() (*datamodel.Model, error) {
	published, err := datamodel.Embedded()
	if err != nil {
		return nil, err
	}
	model := *published // which others share
	model.Classes = maps.Clone(published.Classes)
	for name, fields := range storageFields {
		class := *model.Classes[name]
		class.Messages = maps.Clone(class.Messages)
		model.Classes[name] = &class
		for _, field := range fields {
			if setter := "set_" + field; class.Messages[setter] == nil {
				class.Messages[setter] = &datamodel.Message{
					Class: name, Name: setter, Result: datamodel.Type{Kind: datamodel.Void},
					Params: []datamodel.Param{
						{Name: "self", Type: datamodel.Type{Kind: datamodel.Ref, Name: name}, Required: true},
						{Name: "value", Type: class.Field(field).Type, Required: true},
					},
				}
			}
		}
	}
	return &model, nil
})

// storageOnly are the handlers of those setters.
func storageOnly() map[string]handler {
	out := map[string]handler{}
	for class, fields := range storageFields {
		for _, field := range fields {
			out[class+".set_"+field] = func(c *call) (any, error) {
				if _, err := c.object(0); err != nil {
					return nil, err
				}
				return nil, fail("PERMISSION_DENIED", "")
			}
		}
	}
	return out
}
