package replica

import (
	"net/url"
	"slices"
	"strings"
)

// KeyCarriedTags is the key of a replica VM's other_config that lists the tags which came from its source. It tells them from those
// that an administrator gave the replica.
const KeyCarriedTags = prefix + "tags"

// Tags gives the tags that a replica bears for the sake of its source's: those, and ours.
func Tags(source []string) []string {
	tags := slices.Clone(source)
	if !slices.Contains(tags, TagLeaveAlone) {
		tags = append(tags, TagLeaveAlone)
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

// CarriedTags is the value of KeyCarriedTags for tags.
func CarriedTags(tags []string) string {
	escaped := make([]string, len(tags))
	for i, tag := range tags {
		escaped[i] = url.QueryEscape(tag)
	}
	return strings.Join(escaped, ",")
}

// TagChanges says what is to be added to a replica's tags and removed from them, so that it bears what Tags gives and keeps what others
// gave it. carried is the value of KeyCarriedTags; one that cannot be read counts for nothing.
func TagChanges(now, wanted []string, carried string) (add, remove []string) {
	for _, tag := range wanted {
		if !slices.Contains(now, tag) {
			add = append(add, tag)
		}
	}
	for escaped := range strings.SplitSeq(carried, ",") {
		tag, err := url.QueryUnescape(escaped)
		if err == nil && slices.Contains(now, tag) && !slices.Contains(wanted, tag) {
			remove = append(remove, tag)
		}
	}
	return add, remove
}
