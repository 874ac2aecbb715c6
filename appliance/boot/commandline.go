package boot

import "strings"

// ParseCommandLine splits a kernel command line into words as the kernel does (lib/cmdline.c, next_arg): spaces separate, but not
// within double quotes. Words after "--" are init's, not the kernel's, and are left out. Quotes stay in the words.
func ParseCommandLine(text string) []string {
	var words []string
	quoted, start := false, -1
	for i := 0; i <= len(text); i++ {
		if i == len(text) || !quoted && isSpace(text[i]) {
			if start < 0 {
				continue
			}
			if text[start:i] == "--" {
				return words
			}
			words = append(words, text[start:i])
			start = -1
			continue
		}
		if start < 0 {
			start = i
		}
		if text[i] == '"' {
			quoted = !quoted
		}
	}
	return words
}

func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// ModuleParameters returns the words "module.parameter[=value]" of a kernel command line that are for one module, without the
// module's name, in the form that finit_module(2) takes. The kernel holds '-' and '_' in a module's name for equal.
func ModuleParameters(words []string, module string) string {
	var parameters []string
	for _, word := range words {
		bare, quoted := strings.CutPrefix(word, `"`) // "name=a value" is quoted as a whole
		name, parameter, ok := strings.Cut(bare, ".")
		if !ok || parameter == "" || normalName(name) != normalName(module) {
			continue
		}
		if quoted {
			parameter = `"` + parameter
		}
		parameters = append(parameters, parameter)
	}
	return strings.Join(parameters, " ")
}

func normalName(module string) string { return strings.ReplaceAll(module, "-", "_") }
