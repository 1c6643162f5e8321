package smc

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Names of the environment variables ConfigFromEnv reads.
const (
	EnvEndpoint        = "DROVER_ENDPOINT"
	EnvRegion          = "DROVER_REGION"
	EnvSignature       = "DROVER_SIGNATURE"
	EnvCAFile          = "DROVER_CA_FILE"
	EnvAccessKeyID     = "ALIBABA_CLOUD_ACCESS_KEY_ID"
	EnvAccessKeySecret = "ALIBABA_CLOUD_ACCESS_KEY_SECRET"
	// EnvSecurityToken belongs to the access key of the environment when that is temporary (STS).
	EnvSecurityToken = "ALIBABA_CLOUD_SECURITY_TOKEN"
	// EnvProfile chooses a profile of the vendor CLI's configuration.
	EnvProfile = "ALIBABA_CLOUD_PROFILE"
	// EnvVendorRegion is the vendor's own variable for the region.
	EnvVendorRegion = "ALIBABA_CLOUD_REGION_ID"
)

// ConfigFromEnv reads what a client needs through getenv (os.Getenv). In falling precedence:
//
//   - Endpoint: DROVER_ENDPOINT; it is required. The vendor's is smc.aliyuncs.com.
//   - Access key: ALIBABA_CLOUD_ACCESS_KEY_ID with ALIBABA_CLOUD_ACCESS_KEY_SECRET, never one from here and one from
//     there; the profile of the vendor CLI's configuration, HOME/.aliyun/config.json, that ALIBABA_CLOUD_PROFILE
//     names; the profile that is current there. Profiles of the modes AK and StsToken can be used.
//   - Security token: from where the access key is, ALIBABA_CLOUD_SECURITY_TOKEN or the profile.
//   - Region: DROVER_REGION; and when the endpoint is the vendor's, the region in its name
//     (smc.REGION.aliyuncs.com), ALIBABA_CLOUD_REGION_ID, the region of the profile. It may stay empty.
//   - Signature: DROVER_SIGNATURE, HMAC-SHA1 (default) or ACS3-HMAC-SHA256.
//   - CAFile: DROVER_CA_FILE; left out when the endpoint is the vendor's.
//
// The error names every variable that is missing. It never shows a secret.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	cfg := Config{
		Endpoint:        getenv(EnvEndpoint),
		AccessKeyID:     getenv(EnvAccessKeyID),
		AccessKeySecret: getenv(EnvAccessKeySecret),
		RegionID:        getenv(EnvRegion),
		Signature:       Signature(getenv(EnvSignature)),
		CAFile:          getenv(EnvCAFile),
	}
	var p profile
	switch {
	case cfg.AccessKeyID != "" && cfg.AccessKeySecret != "":
		cfg.SecurityToken = getenv(EnvSecurityToken)
	case cfg.AccessKeyID == "" && cfg.AccessKeySecret == "":
		var err error
		if p, err = readProfile(getenv("HOME"), getenv(EnvProfile)); err != nil {
			return Config{}, err
		}
		cfg.AccessKeyID, cfg.AccessKeySecret, cfg.SecurityToken = p.AccessKeyID, p.AccessKeySecret, p.STSToken
	}
	var missing []string
	for _, v := range []struct{ name, value string }{
		{EnvEndpoint, cfg.Endpoint},
		{EnvAccessKeyID, cfg.AccessKeyID},
		{EnvAccessKeySecret, cfg.AccessKeySecret},
	} {
		if v.value == "" {
			missing = append(missing, v.name)
		}
	}
	if len(missing) > 0 {
		return Config{}, fmt.Errorf("not set in the environment: %s; drover-dev writes them to dev.env in its data directory, source that file", strings.Join(missing, ", "))
	}
	if region, vendor := vendorEndpoint(cfg.Endpoint); vendor {
		cfg.CAFile = "" // it is of a center of one's own
		cfg.RegionID = cmp.Or(cfg.RegionID, region, getenv(EnvVendorRegion), p.RegionID)
	}
	return cfg, nil
}

// vendorDomain is where the vendor's endpoints are: smc.aliyuncs.com, and by its rule of names
// smc.REGION.aliyuncs.com.
const vendorDomain = ".aliyuncs.com"

// vendorEndpoint reports whether an address is the vendor's, and the region in its name if there is one.
func vendorEndpoint(address string) (region string, vendor bool) {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", false
	}
	name, vendor := strings.CutSuffix(strings.ToLower(u.Hostname()), vendorDomain)
	if !vendor {
		return "", false
	}
	_, region, _ = strings.Cut(name, ".")
	return region, true
}

// profile is a profile of the vendor CLI's configuration, as far as it matters here.
type profile struct {
	Name            string `json:"name"`
	Mode            string `json:"mode"`
	AccessKeyID     string `json:"access_key_id"`
	AccessKeySecret string `json:"access_key_secret"`
	STSToken        string `json:"sts_token"`
	RegionID        string `json:"region_id"`
}

// maxProfiles bounds the vendor CLI's configuration file, in bytes.
const maxProfiles = 1 << 20

// readProfile reads a profile of the vendor CLI's configuration under a home directory; an empty name means the
// current one. Without the file, and no name given, there is no profile and no error.
func readProfile(home, name string) (profile, error) {
	if home == "" {
		return profile{}, nil
	}
	path := filepath.Join(home, ".aliyun", "config.json")
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if name == "" {
			return profile{}, nil
		}
		return profile{}, fmt.Errorf("%s names the profile %s, and there is no %s", EnvProfile, quote(name), path)
	}
	if err != nil {
		return profile{}, fmt.Errorf("reading the profiles of the vendor's CLI: %w", err)
	}
	defer file.Close()
	var config struct {
		Current  string    `json:"current"`
		Profiles []profile `json:"profiles"`
	}
	if err := json.NewDecoder(io.LimitReader(file, maxProfiles)).Decode(&config); err != nil {
		return profile{}, fmt.Errorf("%s is not the configuration of the vendor's CLI: %w; mend it, or set %s and %s", path, err, EnvAccessKeyID, EnvAccessKeySecret)
	}
	if name == "" {
		name = config.Current
	}
	if name == "" {
		name = "default" // as the CLI does
	}
	for _, p := range config.Profiles {
		if p.Name != name {
			continue
		}
		temporary := strings.EqualFold(p.Mode, "StsToken")
		switch {
		case !temporary && !strings.EqualFold(p.Mode, "AK"):
			return profile{}, fmt.Errorf("profile %s of %s has mode %s; only the modes AK, an access key, and StsToken, a temporary one, can be used: choose a profile with %s, or set %s and %s",
				quote(name), path, quote(p.Mode), EnvProfile, EnvAccessKeyID, EnvAccessKeySecret)
		case temporary && p.STSToken == "":
			return profile{}, fmt.Errorf("profile %s of %s has mode StsToken and no sts_token; run aliyun configure, or set %s, %s and %s", quote(name), path, EnvAccessKeyID, EnvAccessKeySecret, EnvSecurityToken)
		case !temporary:
			p.STSToken = "" // left from another mode
		}
		if p.AccessKeyID == "" || p.AccessKeySecret == "" {
			return profile{}, fmt.Errorf("profile %s of %s has no access key; run aliyun configure, or set %s and %s", quote(name), path, EnvAccessKeyID, EnvAccessKeySecret)
		}
		return p, nil
	}
	return profile{}, fmt.Errorf("%s has no profile %s; choose one with %s, or set %s and %s", path, quote(name), EnvProfile, EnvAccessKeyID, EnvAccessKeySecret)
}
