package deploy_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/drover/drover/app"
)

// known are the metrics that programs expose, with their labels; nil for any label.
type known map[string][]string

var (
	documentedMetric = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (counter|gauge|histogram) \\| (.*?) \\|")
	inDescription    = regexp.MustCompile(`fqName: "(\w+)".*variableLabels: {(.*)}`)
	temporalConstant = regexp.MustCompile(`(\w+)\s*=\s*(TemporalMetricsPrefix|Temporal\w*Request) \+ "(\w+)"`)
)

// knownMetrics are those of the table in docs/operations.md, which a test of app holds against the programs, of Go's collectors, and of
// Temporal's SDK as its source names them.
func knownMetrics(t *testing.T) known {
	t.Helper()
	metrics := known{"up": {}}
	add := func(name, kind string, labels []string) {
		metrics[name] = labels
		if kind == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				metrics[name+suffix] = append(slices.Clone(labels), "le")
			}
		}
	}
	for _, match := range documentedMetric.FindAllStringSubmatch(read(t, "../docs/operations.md"), -1) {
		add(match[1], match[2], strings.FieldsFunc(match[3], func(r rune) bool { return strings.ContainsRune("`, ", r) }))
	}
	require.Contains(t, metrics, "drover_jobs")
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewDBStatsCollector(nil, "any"))
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		registry.Describe(descs)
	}()
	for desc := range descs {
		match := inDescription.FindStringSubmatch(desc.String())
		require.NotNil(t, match, desc.String())
		add(match[1], "", []string{"db_name"})
	}

	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "go.temporal.io/sdk").Output()
	require.NoError(t, err)
	source := read(t, filepath.Join(strings.TrimSpace(string(out)), "internal", "common", "metrics", "constants.go"))
	prefixes := map[string]string{"TemporalMetricsPrefix": "temporal_"}
	for _, match := range temporalConstant.FindAllStringSubmatch(source, -1) {
		name := prefixes[match[2]] + match[3]
		prefixes[match[1]] = name
		metrics[name], metrics[name+"_total"] = nil, nil
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			metrics[name+"_seconds"+suffix] = nil
		}
	}
	require.Contains(t, metrics, "temporal_request_failure_total")
	return metrics
}

var (
	quoted     = regexp.MustCompile(`"[^"]*"`)
	selector   = regexp.MustCompile(`{([^}]*)}`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
	duration   = regexp.MustCompile(`\[[^\]]*\]`)
	identifier = regexp.MustCompile(`[a-zA-Z_][a-zA-Z0-9_]*\s*\(?`)
	labelName  = regexp.MustCompile(`[a-zA-Z_]\w*`)
)

// check holds what an expression names against what there is.
func (k known) check(expression string) error {
	bare := duration.ReplaceAllString(quoted.ReplaceAllString(expression, `""`), "")
	var labels []string
	for _, pattern := range []*regexp.Regexp{selector, grouping} {
		for _, match := range pattern.FindAllStringSubmatch(bare, -1) {
			labels = append(labels, labelName.FindAllString(match[1], -1)...)
		}
		bare = pattern.ReplaceAllString(bare, "")
	}
	allowed, all, metrics := []string{"instance", "job"}, false, 0
	for _, name := range identifier.FindAllString(bare, -1) {
		if strings.HasSuffix(name, "(") || slices.Contains([]string{"and", "or", "unless"}, strings.TrimSpace(name)) {
			continue
		}
		name = strings.TrimSpace(name)
		known, ok := k[name]
		if !ok {
			return fmt.Errorf("%s: there is no metric %s", expression, name)
		}
		metrics++
		all = all || known == nil
		allowed = append(allowed, known...)
	}
	if metrics == 0 {
		return fmt.Errorf("%s: it names no metric", expression)
	}
	for _, label := range labels {
		if !all && !slices.Contains(allowed, label) {
			return fmt.Errorf("%s: its metrics have no label %s", expression, label)
		}
	}
	return nil
}

func TestExpressionsAreChecked(t *testing.T) {
	metrics := knownMetrics(t)
	require.NoError(t, metrics.check(`sum by (le, operation) (rate(drover_api_request_duration_seconds_bucket{operation!="x"}[5m])) / on (instance) up > 0.5`))
	for _, wrong := range []string{`max(drover_job)`, `drover_jobs{state="Running"}`, `sum by (job_id) (drover_jobs)`, `drover_jobs_bucket`, `temporal_nothing_total`, `vector(0)`} {
		require.Error(t, metrics.check(wrong), wrong)
	}
}

func TestAlerts(t *testing.T) {
	metrics := knownMetrics(t)
	var config struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string `yaml:"job_name"`
			StaticConfigs []struct{ Targets []string }
		} `yaml:"scrape_configs"`
	}
	text := strings.ReplaceAll(read(t, "prometheus/prometheus.yml"), "static_configs", "staticconfigs")
	require.NoError(t, yaml.Unmarshal([]byte(text), &config))
	targets := map[string]string{}
	for _, scrape := range config.ScrapeConfigs {
		targets[scrape.JobName] = scrape.StaticConfigs[0].Targets[0]
	}
	require.Equal(t, map[string]string{
		"drover-server": app.DefaultServerMetrics, "drover-center": app.DefaultCenterMetrics,
		"drover-transition": app.DefaultTransitionMetrics, "drover-orchestrator": app.DefaultOrchestratorMetrics,
	}, targets)

	rules := 0
	for _, file := range config.RuleFiles {
		var content struct {
			Groups []struct {
				Rules []struct {
					Alert, Expr, For    string
					Labels, Annotations map[string]string
				}
			}
		}
		decoder := yaml.NewDecoder(strings.NewReader(read(t, filepath.Join("prometheus", file))))
		require.NoError(t, decoder.Decode(&content))
		for _, group := range content.Groups {
			for _, rule := range group.Rules {
				t.Run(rule.Alert, func(t *testing.T) {
					require.NoError(t, metrics.check(rule.Expr))
					require.Contains(t, []string{"warning", "critical"}, rule.Labels["severity"])
					require.NotEmpty(t, rule.Annotations["summary"])
					require.NotEmpty(t, rule.Annotations["description"], "what to do")
					if rule.For != "" {
						_, err := time.ParseDuration(rule.For)
						require.NoError(t, err)
					}
				})
				rules++
			}
		}
	}
	require.Positive(t, rules)
}

func TestDashboard(t *testing.T) {
	metrics := knownMetrics(t)
	var dashboard struct {
		UID    string
		Panels []struct {
			ID      int
			Type    string
			Title   string
			Targets []struct{ RefID, Expr, LegendFormat string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, "grafana/drover.json")), &dashboard))
	require.NotEmpty(t, dashboard.Panels)
	ids := map[int]bool{}
	for _, panel := range dashboard.Panels {
		require.False(t, ids[panel.ID], "two panels are number %d", panel.ID)
		ids[panel.ID] = true
		require.Equal(t, panel.Type == "row", len(panel.Targets) == 0, panel.Title)
		for _, target := range panel.Targets {
			require.NoError(t, metrics.check(target.Expr))
		}
	}
}

// What serves metrics in the compose file does so where the others of its network reach it, and is asked there whether it is ready.
func TestComposeServesMetrics(t *testing.T) {
	defaults := map[string]string{
		"drover-server": app.DefaultServerMetrics, "drover-center": app.DefaultCenterMetrics,
		"drover-transition": app.DefaultTransitionMetrics, "drover-orchestrator": app.DefaultOrchestratorMetrics,
	}
	file := compose(t)
	for name, address := range defaults {
		s := file.Services[name]
		p, ok := s.ours()
		require.True(t, ok, name)
		require.Equal(t, net.JoinHostPort("0.0.0.0", port(t, address)), p.flag("metrics-listen"), name)
		if p.program == "drover-worker" {
			require.Contains(t, s.Healthcheck.Test, fmt.Sprintf("http://127.0.0.1:%s/readyz?exclude=nats", port(t, address)), name)
		}
	}
}

// Whoever stops a program gives it longer than it takes.
func TestStopTimes(t *testing.T) {
	for name, s := range compose(t).Services {
		if p, ok := s.ours(); ok {
			grace, err := time.ParseDuration(s.StopGrace)
			require.NoError(t, err)
			require.Greater(t, grace, shutdownTimeout(t, p.env), name)
		}
	}
	units, err := filepath.Glob("systemd/*.service")
	require.NoError(t, err)
	for _, file := range units {
		u := readUnit(t, file)
		env := map[string]string{}
		for _, example := range u["Service"]["EnvironmentFile"] {
			for name, value := range environmentExample(t, example) {
				env[name] = value
			}
		}
		grace, err := time.ParseDuration(u.one(t, "TimeoutStopSec"))
		require.NoError(t, err)
		require.Greater(t, grace, shutdownTimeout(t, env), file)
	}
}

// shutdownTimeout is how long a program takes at most with these variables.
func shutdownTimeout(t *testing.T, env map[string]string) time.Duration {
	t.Helper()
	text := env[app.EnvShutdownTimeout]
	if text == "" {
		return app.DefaultShutdownTimeout
	}
	timeout, err := time.ParseDuration(text)
	require.NoError(t, err)
	return timeout
}
