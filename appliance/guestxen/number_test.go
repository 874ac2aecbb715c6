package guestxen_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/appliance/guestxen"
)

// idsOf are all ids that a pool gives to a VBD's number, as xapi-facts §8.1 has them.
func idsOf(number int) []uint32 {
	if number >= 16 {
		return []uint32{1<<28 | uint32(number)<<8}
	}
	ids := []uint32{51712 + 16*uint32(number)}
	if number < 4 {
		ids = append(ids, []uint32{768, 832, 5632, 5696}[number])
	}
	return ids
}

// Every id of a number leads back to it, and no other id leads to any number.
func TestNumbers(t *testing.T) {
	numbers := map[uint32]int{}
	for number := range 256 {
		for _, id := range idsOf(number) {
			if _, ok := numbers[id]; ok {
				t.Fatalf("id %d stands for two numbers", id)
			}
			numbers[id] = number
		}
	}
	for id, want := range numbers {
		if got, ok := guestxen.VBDNumber(id); !ok || got != want {
			t.Errorf("id %d is number %d, %v, want %d", id, got, ok, want)
		}
	}
	check := func(id uint32) error {
		want, exists := numbers[id]
		if got, ok := guestxen.VBDNumber(id); ok != exists || ok && got != want {
			return fmt.Errorf("id %d is number %d, %v, want %d, %v", id, got, ok, want, exists)
		}
		return nil
	}
	for near := range uint32(1 << 17) { // all ids near those that exist
		if err := errors.Join(check(near), check(1<<28-1000+near)); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if err := check(rapid.Uint32().Draw(t, "id")); err != nil {
			t.Error(err)
		}
	})
}

// What sysfs shows of a disk is read whole or not at all.
func TestNodename(t *testing.T) {
	for content, want := range map[string]int{
		"device/vbd/51776\n": 4, "device/vbd/51776": 4, "device/vbd/268439808\n": 17, "device/vbd/768\n": 0,
		"device/vbd/051776\n": -1, "device/vbd/+51776\n": -1, "device/vbd/51777\n": -1, "device/vbd/\n": -1, "device/vbd/xvde\n": -1,
		"device/vif/51776\n": -1, "51776\n": -1, "": -1, "device/vbd/99999999999999999999\n": -1, "device/vbd/51776/x\n": -1,
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "device"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "device/nodename"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, ok := guestxen.Number(dir); ok != (want >= 0) || ok && got != want {
			t.Errorf("nodename %q is disk %d, %v, want %d", content, got, ok, want)
		}
	}
	if got, ok := guestxen.Number(t.TempDir()); ok {
		t.Errorf("a disk without a nodename is disk %d", got)
	}
}
