// Package deploy_test holds what is in deploy against the programs themselves: every command, flag, variable, file and port.
package deploy_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"gopkg.in/yaml.v3"

	"github.com/drover/drover/app"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

// patience bounds every wait for a condition; a test that passes never waits it out.
const patience = 15 * time.Second

// packages are where the programs come from, by the name they are installed under.
var packages = map[string]string{
	"drover": "starter", "drover-server": "server", "drover-worker": "worker", "drover-agent": "agent",
}

// programs builds the programs once for all tests.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "drover-deploy-test-")
	if err != nil {
		return "", err
	}
	args := []string{"build", "-buildvcs=false", "-o", dir}
	for _, name := range slices.Sorted(maps.Values(packages)) {
		args = append(args, "../"+name)
	}
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, _ := programs(); dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// invoke runs a program without any variable of this process and returns what it wrote.
func invoke(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	dir, err := programs()
	require.NoError(t, err)
	require.Contains(t, packages, program, "%s is not one of our programs", program)
	cmd := exec.Command(filepath.Join(dir, packages[program]), args...)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var variable = regexp.MustCompile(`\b[A-Z]+(?:_[A-Z]+)+\b`)

// variables are those that a program says it reads.
func variables(t *testing.T, program string) []string {
	t.Helper()
	help, err := invoke(t, program, "--help")
	require.NoError(t, err)
	if program == "drover" { // its commands have help of their own
		commands, err := invoke(t, program, "fleet", "--help")
		require.NoError(t, err)
		help += commands
	}
	found := variable.FindAllString(help, -1)
	require.NotEmpty(t, found, "%s --help names no variable", program)
	return found
}

// process is one of our programs as a file of deploy starts it.
type process struct {
	program string
	args    []string
	env     map[string]string
}

// check has the program read its flags, and holds the variables and settings against what it needs.
func (p process) check(t *testing.T) {
	t.Helper()
	// With --version a program reads its whole command line, and ends before it works.
	out, err := invoke(t, p.program, append(slices.Clone(p.args), "--version")...)
	require.NoError(t, err, "%s %q: %s", p.program, p.args, out)
	known := variables(t, p.program)
	for name := range p.env {
		require.Contains(t, known, name, "%s does not read this variable", p.program)
	}

	get := func(name string) string { return p.env[name] }
	connections := app.ConnectionsFromEnv(get)
	if file := p.flag("secret-key-file"); file != "" {
		connections.SecretKeyFile = file
	}
	switch p.program {
	case "drover-server":
		config := app.ServerConfig{
			Connections: connections, Listen: p.flag("listen"), TLS: app.TLSFromEnv(get), RegionID: p.env["DROVER_REGION"],
			AccessKeyID: p.env["ALIBABA_CLOUD_ACCESS_KEY_ID"], AccessKeySecret: p.env["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
		}
		require.NoError(t, config.Check())
		require.True(t, config.TLS.Enabled())
		require.Equal(t, caFile, p.flag("ca-out"))
	case "drover-worker":
		config := app.WorkerConfig{
			Connections: connections, Roles: strings.Split(p.flag("role"), ","), TLS: app.TLSFromEnv(get),
			DataDir: p.flag("data"), TransitionListen: p.flag("transition-listen"), TransitionURL: p.flag("transition-url"),
			TransitionPrivateURL: p.flag("transition-private-url"),
		}
		if slices.Contains(config.Roles, app.RoleOrchestrator) {
			config.Orchestrator.SMC, err = smc.ConfigFromEnv(get)
			require.NoError(t, err)
			p.checkEndpoint(t)
			config.Orchestrator.SMC.CAFile = "" // it is not there yet
			require.Contains(t, []string{"on", "off"}, p.env["DROVER_BRIDGE"])
		}
		require.NoError(t, config.Check())
	case "drover-agent":
		require.NotEmpty(t, p.flag("state"))
	case "drover":
		_, err := smc.ConfigFromEnv(get)
		require.NoError(t, err)
		p.checkEndpoint(t)
		for _, name := range []string{"NATS_URL", "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"} { // whatever command is run
			require.NotEmpty(t, p.env[name], name)
		}
	}
}

// caFile is where drover-server writes the authority that the others know it by.
const caFile = "/var/lib/drover/ca/ca.pem"

// checkEndpoint has a client of the endpoint call it by https, and know its authority.
func (p process) checkEndpoint(t *testing.T) {
	t.Helper()
	require.True(t, strings.HasPrefix(p.env["DROVER_ENDPOINT"], "https://"), p.env["DROVER_ENDPOINT"])
	require.Equal(t, caFile, p.env["DROVER_CA_FILE"])
}

// flag returns the value of a flag that is written as --name value or --name=value.
func (p process) flag(name string) string {
	for i, arg := range p.args {
		if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			return value
		}
		if arg == "--"+name && i+1 < len(p.args) {
			return p.args[i+1]
		}
	}
	return ""
}

// port returns the port of host:port, or of the URL.
func port(t *testing.T, address string) string {
	t.Helper()
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		address = u.Host
	}
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err, address)
	return port
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

// readEnv reads NAME=value lines.
func readEnv(t *testing.T, name string) map[string]string {
	t.Helper()
	env := map[string]string{}
	for i, line := range strings.Split(read(t, name), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		require.True(t, ok, "%s:%d: %s", name, i+1, line)
		require.NotContains(t, env, key, "%s:%d: set twice", name, i+1)
		env[key] = value
	}
	return env
}

// service is what this test looks at of a service of the compose file.
type service struct {
	Image       string
	Build       *struct{ Context, Dockerfile string }
	Entrypoint  []string
	Command     []string
	Environment map[string]string
	Ports       []string
	Volumes     []string
	Secrets     []string
	DependsOn   dependencies `yaml:"depends_on"`
	Healthcheck *struct{ Test []string }
	StopGrace   string `yaml:"stop_grace_period"`
	Logging     struct{ Options map[string]string }
}

// dependencies are written as a list or as a mapping.
type dependencies []string

func (d *dependencies) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.SequenceNode {
		return node.Decode((*[]string)(d))
	}
	conditions := map[string]struct{ Condition string }{}
	if err := node.Decode(&conditions); err != nil {
		return err
	}
	*d = slices.Sorted(maps.Keys(conditions))
	return nil
}

type composeFile struct {
	Services map[string]service
	Volumes  map[string]any
	Secrets  map[string]struct{ File string }
}

var reference = regexp.MustCompile(`\$\{([A-Z_]+)(?:(:[-?])([^}]*))?\}`)

// compose reads the compose file with the variables of .env.example, which are all there are.
func compose(t *testing.T) composeFile {
	t.Helper()
	env := readEnv(t, "compose/.env.example")
	text := read(t, "compose/docker-compose.yaml")
	used := map[string]bool{}
	text = reference.ReplaceAllStringFunc(text, func(ref string) string {
		parts := reference.FindStringSubmatch(ref)
		name, operator, word := parts[1], parts[2], parts[3]
		used[name] = true
		value, ok := env[name]
		require.True(t, ok, "%s is not in .env.example", name)
		if operator == ":-" {
			require.Equal(t, value, word, "the default of %s differs from .env.example", name)
		}
		if operator == ":?" {
			require.NotEmpty(t, value, name)
		}
		return value
	})
	require.NotContains(t, text, "${")
	for name := range env {
		require.True(t, used[name], "%s of .env.example is not used", name)
	}
	var file composeFile
	require.NoError(t, yaml.Unmarshal([]byte(text), &file))
	require.NotEmpty(t, file.Services)
	return file
}

// ours returns the service's command as a process; ok is false for a program that is not ours.
func (s service) ours() (p process, ok bool) {
	command := append(slices.Clone(s.Entrypoint), s.Command...)
	if !strings.HasPrefix(s.Image, "drover:") || len(command) == 0 {
		return process{}, false
	}
	return process{command[0], command[1:], s.Environment}, true
}

func TestComposeStartsOurProgramsAsTheyAre(t *testing.T) {
	file := compose(t)
	roles := map[string]bool{}
	started := map[string]bool{}
	for name, s := range file.Services {
		p, ok := s.ours()
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			p.check(t)
			require.Equal(t, "../..", s.Build.Context)
			require.FileExists(t, filepath.Join("..", s.Build.Dockerfile))
			grace, err := time.ParseDuration(s.StopGrace)
			require.NoError(t, err)
			require.Greater(t, grace, 10*time.Second, "the programs finish what they have begun")
			if database := s.Environment["DATABASE_URL"]; database != "" {
				require.Equal(t, file.Services["drover-server"].Environment["DATABASE_URL"], database, "one record")
				requireOnVolume(t, s, strings.TrimPrefix(database, "sqlite://"))
				require.Len(t, s.Secrets, 1)
				require.Equal(t, "/run/secrets/"+s.Secrets[0], s.Environment["DROVER_SECRET_KEY_FILE"])
				require.Contains(t, file.Secrets, s.Secrets[0])
			} else {
				require.Empty(t, s.Secrets, "it opens no record")
			}
			if file := s.Environment["DROVER_CA_FILE"]; file != "" {
				requireOnVolume(t, s, file)
			}
			for _, flag := range []string{"data", "state", "disk", "ca-out"} {
				if dir := p.flag(flag); dir != "" {
					requireOnVolume(t, s, dir)
				}
			}
		})
		started[p.program] = true
		if role := p.flag("role"); role != "" {
			roles[role] = true
		}
	}
	require.ElementsMatch(t, app.Roles(), slices.Collect(maps.Keys(roles)))
	require.ElementsMatch(t, slices.Collect(maps.Keys(packages)), slices.Collect(maps.Keys(started)))
}

func requireOnVolume(t *testing.T, s service, dir string) {
	t.Helper()
	require.True(t, slices.ContainsFunc(s.Volumes, func(volume string) bool {
		target := strings.Split(volume, ":")[1]
		return dir == target || strings.HasPrefix(dir, target+"/")
	}), "%s is on no volume: %v", dir, s.Volumes)
}

func TestComposeFilesVolumesAndPorts(t *testing.T) {
	file := compose(t)
	mounted := map[string]bool{}
	hostPorts := map[string]string{}
	for name, s := range file.Services {
		require.NotEmpty(t, s.Logging.Options["max-size"], "%s: what it logs in a year fills the disk", name)
		for _, dependency := range s.DependsOn {
			require.Contains(t, file.Services, dependency, "%s depends on it", name)
		}
		for _, volume := range s.Volumes {
			source, target, ok := strings.Cut(volume, ":")
			require.True(t, ok, volume)
			require.True(t, path.IsAbs(strings.TrimSuffix(target, ":ro")), volume)
			if strings.HasPrefix(source, ".") {
				require.FileExists(t, filepath.Join("compose", source), "%s mounts it", name)
			} else {
				require.Contains(t, file.Volumes, source, "%s mounts it", name)
				mounted[source] = true
			}
		}
		for _, published := range s.Ports {
			host, container := published[:strings.LastIndex(published, ":")], published[strings.LastIndex(published, ":")+1:]
			hostPort := port(t, host)
			require.Empty(t, hostPorts[hostPort], "%s and %s publish port %s", name, hostPorts[hostPort], hostPort)
			hostPorts[hostPort] = name
			require.Contains(t, listens(t, file, name), container, "%s publishes a port nothing listens on", name)
		}
		for key, value := range s.Environment {
			if u, err := url.Parse(value); err == nil && u.Host != "" && u.Port() != "" {
				requireListens(t, file, u.Host, name+" "+key)
			} else if strings.HasSuffix(key, "_ADDRESS") {
				requireListens(t, file, value, name+" "+key)
			}
		}
		if p, ok := s.ours(); ok && p.flag("transition-url") != "" {
			require.Equal(t, port(t, p.flag("transition-listen")), port(t, p.flag("transition-url")))
		}
	}
	require.Len(t, mounted, len(file.Volumes), "a volume is not used")
}

// listens gives the ports that a service listens on for others.
func listens(t *testing.T, file composeFile, name string) []string {
	t.Helper()
	s := file.Services[name]
	if p, ok := s.ours(); ok {
		var ports []string
		for _, flag := range []string{"listen", "transition-listen"} {
			if address := p.flag(flag); address != "" {
				require.True(t, strings.HasPrefix(address, "0.0.0.0:"), "%s: other containers have to reach it", name)
				ports = append(ports, port(t, address))
			}
		}
		return ports
	}
	switch name {
	case "endpoint":
		config := read(t, "compose/haproxy.cfg")
		upstream := regexp.MustCompile(`server-template \S+ \d+ (\S+):(\d+) `).FindStringSubmatch(config)
		require.NotNil(t, upstream)
		require.Contains(t, listens(t, file, upstream[1]), upstream[2])
		return []string{regexp.MustCompile(`(?m)^  bind :(\d+)$`).FindStringSubmatch(config)[1]}
	case "nats":
		require.Equal(t, "0.0.0.0", process{args: s.Command}.flag("addr"))
		options := natsOptions(t)
		return []string{strconv.Itoa(options.Port)}
	case "temporal":
		require.Equal(t, "0.0.0.0", s.Environment["BIND_ON_IP"])
		return []string{"7233"} // the image's
	case "temporal-ui":
		return []string{"8080"} // the image's
	}
	return nil
}

func requireListens(t *testing.T, file composeFile, address, who string) {
	t.Helper()
	host, number, err := net.SplitHostPort(address)
	require.NoError(t, err, who)
	require.Contains(t, file.Services, host, who)
	require.Contains(t, listens(t, file, host), number, who)
}

func TestComposeHealthChecks(t *testing.T) {
	file := compose(t)
	p, _ := file.Services["drover-server"].ours()
	check := file.Services["drover-server"].Healthcheck.Test
	u, err := url.Parse(check[len(check)-1])
	require.NoError(t, err)
	require.Equal(t, port(t, p.flag("listen")), u.Port())
	require.Equal(t, "/healthz", u.Path)

	check = file.Services["nats"].Healthcheck.Test
	u, err = url.Parse(check[len(check)-1])
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(natsOptions(t).HTTPPort), u.Port())
	require.Equal(t, server.HealthzPath, u.Path)
}

func TestDockerfileBuildsEveryProgram(t *testing.T) {
	text := read(t, "compose/Dockerfile")
	built := map[string]string{}
	for _, match := range regexp.MustCompile(`-o /out/(\S+) \./(\S+)`).FindAllStringSubmatch(text, -1) {
		built[match[1]] = match[2]
	}
	require.Equal(t, packages, built)
	image := regexp.MustCompile(`FROM golang:(\d+\.\d+)`).FindStringSubmatch(text)
	require.NotNil(t, image)
	require.Contains(t, read(t, "../go.mod"), "\ngo "+image[1], "the image's Go is the module's")
	for _, file := range []string{"go.mod", "go.sum"} {
		require.FileExists(t, "../"+file)
	}
	// The folders of the volumes belong to the user of the image.
	folders := strings.Fields(regexp.MustCompile(`install -d .* -m 0700 (.*)`).FindStringSubmatch(text)[1])
	for name, s := range compose(t).Services {
		if _, ok := s.ours(); ok {
			for _, volume := range s.Volumes {
				require.Contains(t, folders, strings.Split(volume, ":")[1], name)
			}
		}
	}
	for _, name := range []string{"app", "main"} { // where make sets the version too
		require.Contains(t, text, name+".version=$VERSION")
	}
}

// unit is a systemd unit: the values of each key, by section.
type unit map[string]map[string][]string

func readUnit(t *testing.T, name string) unit {
	t.Helper()
	u := unit{}
	section := ""
	for i, line := range strings.Split(read(t, name), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
			u[section] = map[string][]string{}
		default:
			key, value, ok := strings.Cut(line, "=")
			require.True(t, ok, "%s:%d: %s", name, i+1, line)
			u[section][key] = append(u[section][key], value)
		}
	}
	return u
}

// one returns the value of a key of [Service] that is there once.
func (u unit) one(t *testing.T, key string) string {
	t.Helper()
	require.Len(t, u["Service"][key], 1, key)
	return u["Service"][key][0]
}

func TestUnitsStartOurProgramsAsTheyAre(t *testing.T) {
	files, err := filepath.Glob("systemd/*.service")
	require.NoError(t, err)
	users := read(t, "systemd/drover.sysusers.conf")
	expanded := regexp.MustCompile(`\$\{([A-Z_]+)\}|\$([A-Z_]+)`)
	roles := map[string]bool{}
	started := map[string]bool{}
	forUnits := map[string]bool{} // variables that units, not programs, read
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			u := readUnit(t, file)
			env := map[string]string{}
			for _, line := range u["Service"]["Environment"] {
				for _, assignment := range strings.Fields(line) {
					name, value, _ := strings.Cut(assignment, "=")
					env[name] = value
				}
			}
			defaults := maps.Clone(env)
			for _, file := range u["Service"]["EnvironmentFile"] { // later ones win
				for name, value := range environmentExample(t, file) {
					if preset, ok := defaults[name]; ok {
						require.Equal(t, preset, value, "%s differs from the default of the unit", name)
					}
					env[name] = value
				}
			}
			require.NotEmpty(t, u["Service"]["EnvironmentFile"])

			var command []string
			own := map[string]bool{}
			for _, word := range strings.Fields(u.one(t, "ExecStart")) {
				bare := strings.HasPrefix(word, "$") && !strings.HasPrefix(word, "${")
				word = expanded.ReplaceAllStringFunc(word, func(ref string) string {
					name := strings.Trim(ref, "${}")
					require.Contains(t, env, name, "ExecStart uses it")
					own[name], forUnits[name] = true, true
					return env[name]
				})
				if bare { // systemd splits these
					command = append(command, strings.Fields(word)...)
				} else {
					command = append(command, word)
				}
			}
			dir, program := path.Split(command[0])
			require.Equal(t, "/usr/local/bin/", dir)
			started[program] = true

			// The file is shared by several units: a program is checked with what it reads of it.
			known := variables(t, program)
			maps.DeleteFunc(env, func(name, _ string) bool { return own[name] || !slices.Contains(known, name) })
			for name := range defaults {
				require.True(t, own[name], "Environment sets %s, and nothing reads it", name)
			}
			p := process{program, command[1:], env}
			p.check(t)
			if role := p.flag("role"); role != "" {
				roles[role] = true
			}

			user := u.one(t, "User")
			require.Contains(t, users, "\nu "+user+" ")
			checkState(t, u, p)
			checkHardening(t, u, p)
		})
	}
	require.ElementsMatch(t, app.Roles(), slices.Collect(maps.Keys(roles)))
	require.ElementsMatch(t, []string{"drover-server", "drover-worker", "drover-agent"}, slices.Collect(maps.Keys(started)))

	var known []string
	for program := range packages {
		known = append(known, variables(t, program)...)
	}
	for _, example := range []string{"drover.env", "orchestrator.env", "agent.env"} {
		for name := range readEnv(t, "systemd/"+example+".example") {
			require.True(t, forUnits[name] || slices.Contains(known, name), "%s of %s is read by nothing", name, example)
		}
	}
}

// environmentExample reads the example of an environment file that a unit names.
func environmentExample(t *testing.T, file string) map[string]string {
	t.Helper()
	file = strings.TrimPrefix(file, "-")
	dir, name := path.Split(file)
	require.Contains(t, read(t, "systemd/drover.tmpfiles.conf"), "\nd "+strings.TrimSuffix(dir, "/")+" ")
	return readEnv(t, "systemd/"+name+".example")
}

// checkState has every folder the program writes to be one that systemd makes for it.
func checkState(t *testing.T, u unit, p process) {
	t.Helper()
	var writable []string
	for _, dirs := range u["Service"]["StateDirectory"] {
		for _, dir := range strings.Fields(dirs) {
			writable = append(writable, "/var/lib/"+dir)
		}
	}
	within := func(dir string) {
		t.Helper()
		require.True(t, slices.ContainsFunc(writable, func(root string) bool {
			return dir == root || strings.HasPrefix(dir, root+"/")
		}), "%s is not writable: %v", dir, writable)
	}
	for _, flag := range []string{"data", "state", "ca-out"} {
		if dir := p.flag(flag); dir != "" {
			within(dir)
		}
	}
	if p.program == "drover-server" || p.program == "drover-worker" && p.flag("role") != app.RoleOrchestrator {
		within(strings.TrimPrefix(p.env["DATABASE_URL"], "sqlite://"))
		credential, file, _ := strings.Cut(u.one(t, "LoadCredential"), ":")
		require.Equal(t, "%d/"+credential, p.flag("secret-key-file"))
		require.Contains(t, read(t, "systemd/drover.env.example"), "> "+file+")", "it says how the file is made")
	} else {
		require.Empty(t, u["Service"]["LoadCredential"], "it opens no record")
	}
	if p.flag("transition-url") != "" {
		require.Equal(t, port(t, p.flag("transition-listen")), port(t, p.flag("transition-url")))
	}
	if p.flag("role") == app.RoleOrchestrator {
		example := readEnv(t, "systemd/drover.env.example")
		require.Equal(t, port(t, example["DROVER_LISTEN"]), port(t, p.env["DROVER_ENDPOINT"]))
		require.Equal(t, strconv.Itoa(natsOptions(t).Port), port(t, p.env["NATS_URL"]))
	}
}

func checkHardening(t *testing.T, u unit, p process) {
	t.Helper()
	for key, want := range map[string]string{
		"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "CapabilityBoundingSet": "",
		"Restart": "on-failure", "RestartPreventExitStatus": strconv.Itoa(app.ExitUsage), "UMask": "0077",
	} {
		require.Equal(t, want, u.one(t, key), key)
	}
	grace, err := time.ParseDuration(u.one(t, "TimeoutStopSec"))
	require.NoError(t, err)
	require.Greater(t, grace, 10*time.Second, "the programs finish what they have begun")
	require.Equal(t, []string{"multi-user.target"}, u["Install"]["WantedBy"])
	// Agents report the addresses of their machine, and certificates of --tls self are good for them: the kernel tells them by netlink.
	families := []string{"AF_INET", "AF_INET6", "AF_UNIX"}
	if p.program == "drover-agent" || p.flag("listen") != "" || p.flag("transition-listen") != "" {
		families = append(families, "AF_NETLINK")
	}
	require.ElementsMatch(t, families, strings.Fields(u.one(t, "RestrictAddressFamilies")))
}

// systemd itself reads the units where it is installed; it does so without running.
func TestUnitsAreReadBySystemd(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	files, err := filepath.Glob("systemd/*.service")
	require.NoError(t, err)
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, files...)...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		// It says so of a program that is not installed here, and of the units of this machine.
		if strings.Contains(line, "is not executable") || !strings.Contains(line, "drover") {
			continue
		}
		require.Fail(t, "systemd does not understand a unit", line)
	}
}

func natsOptions(t *testing.T) *server.Options {
	t.Helper()
	for name, password := range natsPasswords {
		t.Setenv(name, password)
	}
	options, err := server.ProcessConfigFile("nats/nats.conf")
	require.NoError(t, err)
	return options
}

func TestNATSConfig(t *testing.T) {
	options := natsOptions(t)
	require.True(t, options.JetStream)
	require.True(t, options.SyncAlways, "what was acknowledged must outlive a power cut")
	require.Equal(t, "127.0.0.1", options.Host)
	require.True(t, slices.ContainsFunc(compose(t).Services["nats"].Volumes, func(volume string) bool {
		return strings.HasSuffix(volume, ":"+options.StoreDir)
	}), "the store is on a volume")

	for name := range natsPasswords {
		require.NotEmpty(t, compose(t).Services["nats"].Environment[name])
	}
}

func TestNamespaceHasOurSearchAttributes(t *testing.T) {
	script := read(t, "temporal/namespace.sh")
	added := map[string]string{}
	for _, match := range regexp.MustCompile(`--name (\S+) --type (\w+)`).FindAllStringSubmatch(script, -1) {
		added[match[1]] = match[2]
	}
	want := map[string]string{}
	for _, key := range []temporal.SearchAttributeKey{
		workflows.AttributeFleet, workflows.AttributePhase, workflows.AttributeReason, workflows.AttributeJobID,
		workflows.AttributeRuns, workflows.AttributeAttempts,
	} {
		kind := key.GetValueType()
		require.NotEqual(t, enumspb.INDEXED_VALUE_TYPE_UNSPECIFIED, kind)
		want[key.GetName()] = kind.String()
	}
	require.Equal(t, want, added)
}

func TestTemporalScriptsAreShell(t *testing.T) {
	for _, script := range []string{"temporal/namespace.sh", "temporal/schema.sh"} {
		out, err := exec.Command("sh", "-n", script).CombinedOutput()
		require.NoError(t, err, "%s: %s", script, out)
		// A variable that must be set is set by the compose file.
		for _, match := range regexp.MustCompile(`: "\$\{([A-Z_]+):\?`).FindAllStringSubmatch(read(t, script), -1) {
			name := match[1]
			require.True(t, slices.ContainsFunc(slices.Collect(maps.Values(compose(t).Services)), func(s service) bool {
				return len(s.Entrypoint) == 2 && path.Base(s.Entrypoint[1]) == path.Base(script) && s.Environment[name] != ""
			}), "%s needs %s", script, name)
		}
	}
}

// What Temporal reads is held against the source of the server that deploy/dev embeds, where that is at hand.
func TestTemporalKnowsItsSettings(t *testing.T) {
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "go.temporal.io/server")
	list.Dir = "dev"
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Skipf("the source of Temporal's server is not at hand: %v %s", err, stderr.String())
	}
	var settings map[string][]struct {
		Value any
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "temporal/dynamicconfig.yaml")), &settings))
	require.NotEmpty(t, settings)
	constants := read(t, filepath.Join(dir, "common", "dynamicconfig", "constants.go"))
	for key, values := range settings {
		require.Contains(t, constants, strconv.Quote(key))
		require.Len(t, values, 1)
		require.NotNil(t, values[0].Value)
	}

	template := read(t, filepath.Join(dir, "config", "docker.yaml"))
	s := compose(t).Services["temporal"]
	for name := range s.Environment {
		require.Contains(t, template, strconv.Quote(name), "the server's image does not read this variable")
	}
	file := s.Environment["DYNAMIC_CONFIG_FILE_PATH"]
	require.True(t, slices.ContainsFunc(s.Volumes, func(volume string) bool { return strings.HasSuffix(volume, ":"+file+":ro") }), file)
}
