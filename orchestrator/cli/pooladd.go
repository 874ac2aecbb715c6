package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	passwordVariable = "UNDERSTUDY_POOL_PASSWORD"
	addressesFlag    = "delegate-addresses"
	gatewayFlag      = "delegate-gateway"
	mtuFlag          = "delegate-mtu"
	networkFlag      = "delegate-network"
	maxPassword      = 4 << 10 // bytes
)

// errUntrusted is a certificate that nobody has accepted yet.
var errUntrusted = errors.New("the certificate has not been accepted")

// poolDocument is a pool in JSON. It has no password.
type poolDocument struct {
	Name              string    `json:"name"`
	UUID              string    `json:"uuid"`
	Addresses         []string  `json:"addresses"`
	Username          string    `json:"username"`
	Fingerprints      []string  `json:"fingerprints"`
	DelegateAddresses string    `json:"delegate_addresses"`
	DelegateGateway   string    `json:"delegate_gateway"` // empty: none
	DelegateMTU       int       `json:"delegate_mtu"`     // 0: the network's own
	DelegateNetwork   string    `json:"delegate_network"` // uuid; empty: where the image was deployed to
	Added             time.Time `json:"added"`
}

func documentOf(p state.Pool) poolDocument {
	return poolDocument{
		p.Name, p.UUID, p.Addresses, p.Username, p.Fingerprints, p.DelegateAddresses, p.DelegateGateway, p.DelegateMTU, p.DelegateNetwork,
		p.Added,
	}
}

func (a *app) poolAdd() *cobra.Command {
	var (
		p              state.Pool
		passwordFile   string
		trustFirstUse  bool
		passwordSource = "of $" + passwordVariable + ", else from standard input when that is no terminal"
	)
	c := &cobra.Command{
		Use:   "add NAME --address HOST[,HOST…] --username USER",
		Short: "Make a pool known, or change how it is reached, after a login",
		Long: "Makes a pool known under NAME. The password is read from --password-file, or is that\n" + passwordSource + ".\n\n" +
			"A pool is recognised by the certificates of its hosts: compare the fingerprint with that on the host's\nconsole (openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem) and give it with\n--fingerprint; or accept what is shown now with --trust-first-use.\n\n" +
			"The pool's other hosts are kept with those that are named: a coordinator whose certificate is accepted vouches for\nthem, and any of them leads to the next one.\n\n" +
			"When NAME is that pool's already, what is known of it is replaced: addresses, user, password, fingerprints,\nand the delegates' addresses, gateway, MTU and network when they are given. Replicas stay as they are.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p.Name = args[0]
			given := func(flag string) bool { return c.Flags().Changed(flag) }
			return a.addPool(c.Context(), p, given, trustFirstUse, func() (string, error) { return readPassword(passwordFile, c.InOrStdin()) })
		},
	}
	flags := c.Flags()
	flags.StringSliceVar(&p.Addresses, "address", nil, "`hosts` of the pool, host[:port]; any of them leads to the coordinator")
	flags.StringVar(&p.Username, "username", "", "`user` of the XenAPI")
	flags.StringVar(&passwordFile, "password-file", "", "`file` with the password")
	flags.StringSliceVar(&p.Fingerprints, "fingerprint", nil, "`SHA-256` fingerprints of the certificates that are accepted")
	flags.BoolVar(&trustFirstUse, "trust-first-use", false, "accept the certificates that are shown now")
	flags.StringVar(&p.DelegateAddresses, addressesFlag, "", "`ranges` of addresses that delegates may take, such as 10.0.0.20-10.0.0.40/24; or dhcp, or dhcp6")
	flags.StringVar(&p.DelegateGateway, gatewayFlag, "", "`router` of the delegates' network, to reach delegates of other sites; empty: none")
	flags.IntVar(&p.DelegateMTU, mtuFlag, 0, "`bytes` of the delegates' largest packets; 0: as their network has it")
	flags.StringVar(&p.DelegateNetwork, networkFlag, "", "network of the delegates, by `name` or uuid; empty: that which their image was deployed to")
	required(c, "address", "username")
	c.MarkFlagsMutuallyExclusive("fingerprint", "trust-first-use")
	return c
}

// required marks flags without which a command makes no sense.
func required(c *cobra.Command, names ...string) {
	for _, name := range names {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is not defined
		}
	}
}

func (a *app) addPool(ctx context.Context, p state.Pool, given func(flag string) bool, trustFirstUse bool, password func() (string, error)) error {
	if given(addressesFlag) { // else it is checked with what is known of the pool
		if err := checkNetwork(p); err != nil {
			return err
		}
	}
	if len(p.Fingerprints) == 0 {
		found, err := a.certificates(ctx, p, trustFirstUse)
		if err != nil {
			return err
		}
		p.Fingerprints = found
	}
	secret, err := password()
	if err != nil {
		return err
	}
	p.Password = state.Secret(secret)
	client, err := xapi.Dial(ctx, config(p))
	if err != nil {
		return fmt.Errorf("pool %s: %w", p.Name, err)
	}
	defer client.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the pool ends idle sessions itself
	view, err := inventory.Load(ctx, client)
	if err != nil {
		return fmt.Errorf("pool %s: %w", p.Name, err)
	}
	p.UUID = view.UUID
	if p.DelegateNetwork != "" {
		network, err := view.FindNetwork(p.DelegateNetwork)
		if err != nil {
			return fmt.Errorf("--%s: %w", networkFlag, err)
		}
		p.DelegateNetwork = view.Networks[network].UUID
	}
	whole := config(p).Including(client.Members()) // the pool is found when the hosts that were named are gone
	p.Addresses, p.Fingerprints = whole.Addresses, whole.Fingerprints
	store, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // what was added is durable
	done, err := addOrUpdate(ctx, store, p, given)
	if err != nil {
		return err
	}
	added, err := store.Pool(ctx, p.UUID)
	if err != nil {
		return err
	}
	return a.print(documentOf(added), func(w *strings.Builder) {
		fmt.Fprintf(w, "%s pool %s (%s, %d hosts, coordinator %s); 'understudy pool check %s' tells whether it is ready\n",
			done, added.Name, added.UUID, len(view.Hosts), client.Address(), added.Name)
	})
}

// addOrUpdate keeps a pool that has let us in, and says which of the two was done. A pool with replicas cannot be removed and
// added: its password, certificates and addresses are changed by adding the same pool under the same name again.
func addOrUpdate(ctx context.Context, store *state.Store, p state.Pool, given func(flag string) bool) (done string, err error) {
	known, err := store.Pool(ctx, p.UUID)
	isNew := errors.Is(err, state.ErrNotFound) || err == nil && known.Name != p.Name
	if err != nil && !isNew {
		return "", err
	}
	if !isNew {
		if !given(addressesFlag) {
			p.DelegateAddresses = known.DelegateAddresses
		}
		if !given(gatewayFlag) {
			p.DelegateGateway = known.DelegateGateway
		}
		if !given(mtuFlag) {
			p.DelegateMTU = known.DelegateMTU
		}
		if !given(networkFlag) {
			p.DelegateNetwork = known.DelegateNetwork
		}
	}
	if err := checkNetwork(p); err != nil {
		return "", err
	}
	if isNew {
		return "added", store.AddPool(ctx, p)
	}
	return "updated", store.UpdatePool(ctx, p)
}

// checkNetwork makes sure that delegates could use what they are told of their network.
func checkNetwork(p state.Pool) error {
	var ranges placement.AddressRanges
	if p.DelegateAddresses != "" {
		var err error
		if ranges, err = placement.ParseAddresses(p.DelegateAddresses); err != nil {
			return usagef("--%s: %w", addressesFlag, err)
		}
	}
	if err := ranges.CheckGateway(p.DelegateGateway); err != nil {
		return usagef("--%s: %w", gatewayFlag, err)
	}
	if err := ranges.CheckMTU(p.DelegateMTU); err != nil {
		return usagef("--%s: %w", mtuFlag, err)
	}
	return nil
}

// certificates fetches the fingerprints of a pool's hosts, for the administrator to compare or to accept.
func (a *app) certificates(ctx context.Context, p state.Pool, accept bool) ([]string, error) {
	var found, flags []string
	for _, address := range p.Addresses {
		fingerprint, err := xapi.FetchFingerprint(ctx, address)
		if err != nil {
			return nil, err
		}
		a.complain(fmt.Sprintf("the certificate of %s has the SHA-256 fingerprint %s\n", address, fingerprint))
		found, flags = append(found, fingerprint), append(flags, "--fingerprint "+fingerprint)
	}
	if accept {
		return found, nil
	}
	return nil, fmt.Errorf("pool %s: %w: compare it with the host's own, then add %s; or take it as it is with --trust-first-use",
		p.Name, errUntrusted, strings.Join(flags, " "))
}

// readPassword takes the password from the first place that has one. Passwords are no arguments: everybody on a machine sees those.
func readPassword(file string, stdin io.Reader) (string, error) {
	var source io.Reader
	switch {
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		defer f.Close()
		source = f
	case os.Getenv(passwordVariable) != "":
		return os.Getenv(passwordVariable), nil
	case isTerminal(stdin):
		return "", usagef("no password: name a file with --password-file, set %s, or pipe it in", passwordVariable)
	default:
		source = stdin
	}
	content, err := io.ReadAll(io.LimitReader(source, maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	switch {
	case len(content) > maxPassword:
		return "", usagef("the password is longer than %d bytes: this is the wrong file", maxPassword)
	case password == "":
		return "", usagef("the password is empty: name a file with --password-file, set %s, or pipe it in", passwordVariable)
	}
	return password, nil
}
