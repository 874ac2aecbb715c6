package xapi

import "testing"

// TestAddresses has what hosts write where they name another one: in HOST_IS_SLAVE, in a host's record and in a redirection.
func TestAddresses(t *testing.T) {
	for named, want := range map[string]string{
		"10.0.0.2": "10.0.0.2:8443", "host.example": "host.example:8443", "10.0.0.2:444": "10.0.0.2:444",
		"2001:db8::2": "[2001:db8::2]:8443", "[2001:db8::2]": "[2001:db8::2]:8443", "[2001:db8::2]:444": "[2001:db8::2]:444",
		"2001:DB8:0::2": "[2001:db8::2]:8443", "::1": "[::1]:8443", "::ffff:10.0.0.2": "[::ffff:10.0.0.2]:8443",
		"": "", "[]": "", "[host]": "", "10.0.0.2:": "", "a b": "", "user@host": "", "2001:db8::2::3": "",
	} {
		for _, from := range []string{"10.0.0.1:8443", "[fd00::1]:8443"} {
			if got, err := besides(named, from); got != want || (err == nil) != (want != "") {
				t.Errorf("%q named by %s is %q, %v", named, from, got, err)
			}
		}
		if got, err := redirected("10.0.0.1:8443", "https://"+named+"/import?session_id=secret"); got != want || (err == nil) != (want != "") {
			t.Errorf("a redirection to %q leads to %q, %v", named, got, err)
		}
	}
	for _, location := range []string{"", "/import", "http://10.0.0.2/import", "https://", "https:///import", "https://a@10.0.0.2/import"} {
		if got, err := redirected("10.0.0.1:443", location); err == nil {
			t.Errorf("a redirection to %q leads to %q", location, got)
		}
	}
	if got, err := redirected("10.0.0.1:443", "https://[2001:db8::2]"); err != nil || got != "[2001:db8::2]:443" {
		t.Errorf("%q, %v", got, err)
	}
}
