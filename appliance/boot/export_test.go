package boot

// ParseDependencies returns what each module of a modules.dep needs.
func ParseDependencies(text string) (map[string][]string, error) {
	modules, err := parseDependencies(text)
	needs := make(map[string][]string)
	for name, m := range modules {
		needs[name] = m.needs
	}
	return needs, err
}
