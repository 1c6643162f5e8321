package smc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// profilesOfTheCLI is a configuration in the form the vendor's CLI writes.
const profilesOfTheCLI = `{"current": "prod", "profiles": [
	{"name": "default", "mode": "AK", "access_key_id": "id-default", "access_key_secret": "secret-default", "region_id": "cn-beijing", "output_format": "json"},
	{"name": "prod", "mode": "AK", "access_key_id": "id-prod", "access_key_secret": "secret-prod", "region_id": "cn-hangzhou", "retry_count": 3},
	{"name": "sts", "mode": "StsToken", "access_key_id": "id-sts", "access_key_secret": "secret-sts", "sts_token": "t"},
	{"name": "sts-without", "mode": "StsToken", "access_key_id": "id-sts", "access_key_secret": "secret-sts"},
	{"name": "left", "mode": "AK", "access_key_id": "id-left", "access_key_secret": "secret-left", "sts_token": "t"},
	{"name": "role", "mode": "EcsRamRole", "ram_role_name": "r"},
	{"name": "empty", "mode": "AK"}
], "meta_path": ""}`

func writeProfiles(t *testing.T, text string) (home string) {
	t.Helper()
	home = t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".aliyun"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".aliyun", "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return home
}

func TestConfigFromEnv(t *testing.T) {
	home := writeProfiles(t, profilesOfTheCLI)
	withoutCurrent := writeProfiles(t, strings.Replace(profilesOfTheCLI, `"prod"`, `""`, 1))
	const center, vendor = "http://127.0.0.1:7700", "https://smc.aliyuncs.com"
	for name, c := range map[string]struct {
		env  map[string]string
		want Config
	}{
		"everything": {
			map[string]string{EnvEndpoint: center, EnvAccessKeyID: "id", EnvAccessKeySecret: "secret", EnvRegion: "local", EnvSignature: "ACS3-HMAC-SHA256"},
			Config{Endpoint: center, AccessKeyID: "id", AccessKeySecret: "secret", RegionID: "local", Signature: SignatureACS3},
		},
		"the environment before the profile": {
			map[string]string{EnvEndpoint: center, EnvAccessKeyID: "id", EnvAccessKeySecret: "secret", EnvProfile: "sts", "HOME": home},
			Config{Endpoint: center, AccessKeyID: "id", AccessKeySecret: "secret"},
		},
		"the current profile, whose region is not a center's": {
			map[string]string{EnvEndpoint: center, "HOME": home},
			Config{Endpoint: center, AccessKeyID: "id-prod", AccessKeySecret: "secret-prod"},
		},
		"the current profile at the vendor": {
			map[string]string{EnvEndpoint: vendor, "HOME": home},
			Config{Endpoint: vendor, AccessKeyID: "id-prod", AccessKeySecret: "secret-prod", RegionID: "cn-hangzhou"},
		},
		"a profile that is named": {
			map[string]string{EnvEndpoint: vendor, "HOME": home, EnvProfile: "default"},
			Config{Endpoint: vendor, AccessKeyID: "id-default", AccessKeySecret: "secret-default", RegionID: "cn-beijing"},
		},
		"no current profile": {
			map[string]string{EnvEndpoint: vendor, "HOME": withoutCurrent},
			Config{Endpoint: vendor, AccessKeyID: "id-default", AccessKeySecret: "secret-default", RegionID: "cn-beijing"},
		},
		"the vendor's region variable before the profile's": {
			map[string]string{EnvEndpoint: vendor, "HOME": home, EnvVendorRegion: "eu-central-1"},
			Config{Endpoint: vendor, AccessKeyID: "id-prod", AccessKeySecret: "secret-prod", RegionID: "eu-central-1"},
		},
		"the region of the endpoint before the variable": {
			map[string]string{EnvEndpoint: "smc.ap-southeast-1.aliyuncs.com", "HOME": home, EnvVendorRegion: "eu-central-1"},
			Config{Endpoint: "smc.ap-southeast-1.aliyuncs.com", AccessKeyID: "id-prod", AccessKeySecret: "secret-prod", RegionID: "ap-southeast-1"},
		},
		"a temporary key of the environment": {
			map[string]string{EnvEndpoint: vendor, EnvAccessKeyID: "STS.id", EnvAccessKeySecret: "secret", EnvSecurityToken: "token", "HOME": home},
			Config{Endpoint: vendor, AccessKeyID: "STS.id", AccessKeySecret: "secret", SecurityToken: "token"},
		},
		"a temporary key of a profile": {
			map[string]string{EnvEndpoint: vendor, "HOME": home, EnvProfile: "sts"},
			Config{Endpoint: vendor, AccessKeyID: "id-sts", AccessKeySecret: "secret-sts", SecurityToken: "t"},
		},
		"a security token is never of another key": {
			map[string]string{EnvEndpoint: vendor, "HOME": home, EnvProfile: "default", EnvSecurityToken: "token"},
			Config{Endpoint: vendor, AccessKeyID: "id-default", AccessKeySecret: "secret-default", RegionID: "cn-beijing"},
		},
		"a token left in a profile of another mode": {
			map[string]string{EnvEndpoint: vendor, "HOME": home, EnvProfile: "left"},
			Config{Endpoint: vendor, AccessKeyID: "id-left", AccessKeySecret: "secret-left"},
		},
		"DROVER_REGION before all": {
			map[string]string{EnvEndpoint: "smc.ap-southeast-1.aliyuncs.com", "HOME": home, EnvRegion: "cn-qingdao"},
			Config{Endpoint: "smc.ap-southeast-1.aliyuncs.com", AccessKeyID: "id-prod", AccessKeySecret: "secret-prod", RegionID: "cn-qingdao"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ConfigFromEnv(func(name string) string { return c.env[name] })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestConfigFromEnvRefuses(t *testing.T) {
	home := writeProfiles(t, profilesOfTheCLI)
	key := map[string]string{EnvEndpoint: "http://x", EnvAccessKeyID: "id", EnvAccessKeySecret: "secret-env"}
	with := func(env map[string]string, changes ...string) map[string]string {
		changed := map[string]string{}
		for name, value := range env {
			changed[name] = value
		}
		for i := 0; i < len(changes); i += 2 {
			changed[changes[i]] = changes[i+1]
		}
		return changed
	}
	for name, c := range map[string]struct {
		env  map[string]string
		says string
	}{
		"nothing":                      {map[string]string{}, EnvEndpoint + ", " + EnvAccessKeyID + ", " + EnvAccessKeySecret},
		"no endpoint":                  {with(key, EnvEndpoint, ""), "not set in the environment: " + EnvEndpoint + ";"},
		"no key and no file":           {with(key, EnvAccessKeyID, "", EnvAccessKeySecret, "", "HOME", t.TempDir()), EnvAccessKeyID + ", " + EnvAccessKeySecret},
		"no secret, though a profile":  {with(key, EnvAccessKeySecret, "", "HOME", home), "not set in the environment: " + EnvAccessKeySecret + ";"},
		"an id of its own, no secret":  {with(key, EnvAccessKeyID, "", "HOME", home), "not set in the environment: " + EnvAccessKeyID + ";"},
		"a profile without its token":  {map[string]string{EnvEndpoint: "http://x", "HOME": home, EnvProfile: "sts-without"}, "no sts_token"},
		"a profile of a role":          {map[string]string{EnvEndpoint: "http://x", "HOME": home, EnvProfile: "role"}, `has mode "EcsRamRole"; only the modes AK`},
		"a profile without key":        {map[string]string{EnvEndpoint: "http://x", "HOME": home, EnvProfile: "empty"}, "has no access key"},
		"a profile there is not":       {map[string]string{EnvEndpoint: "http://x", "HOME": home, EnvProfile: "none"}, `has no profile "none"`},
		"a profile and no file":        {map[string]string{EnvEndpoint: "http://x", "HOME": t.TempDir(), EnvProfile: "prod"}, "there is no "},
		"a file that is not JSON":      {map[string]string{EnvEndpoint: "http://x", "HOME": writeProfiles(t, "[default]")}, "is not the configuration of the vendor's CLI"},
		"a file that is another thing": {map[string]string{EnvEndpoint: "http://x", "HOME": writeProfiles(t, "{}")}, `has no profile "default"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ConfigFromEnv(func(name string) string { return c.env[name] })
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want it to say %q", err, c.says)
			}
			if strings.Contains(err.Error(), "secret-") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}
