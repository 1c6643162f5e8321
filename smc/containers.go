package smc

import (
	"regexp"
	"strings"
)

// The parts of a reference, as registries take them.
var (
	containerPath = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	containerTag  = regexp.MustCompile(`^\w[\w.-]{0,127}$`)
	noPathLetters = regexp.MustCompile(`[^a-z0-9]+`)
)

const (
	defaultContainerTag        = "latest"
	defaultContainerRepository = "server" // of a name that has no letter that a reference could have
	maxContainerPath           = 255
)

// ContainerReference returns what the container image of a job is called, namespace/repository:tag, and an InvalidParameter that names
// the part which no reference can have. It is lenient where the documents' samples are: capitals of namespace and repository become
// small, and the colons of a tag hyphens. No namespace is none, no repository is the name of the source server, and no tag "latest".
func (r *CreateReplicationJobRequest) ContainerReference(sourceName string) (string, error) {
	namespace, repository := strings.ToLower(deref(r.ContainerNamespace)), strings.ToLower(deref(r.ContainerRepository))
	tag := strings.ReplaceAll(deref(r.ContainerTag), ":", "-")
	if repository == "" {
		if repository = strings.Trim(noPathLetters.ReplaceAllString(strings.ToLower(sourceName), "-"), "-"); repository == "" {
			repository = defaultContainerRepository
		}
	}
	if tag == "" {
		tag = defaultContainerTag
	}
	path := repository
	if namespace != "" {
		path = namespace + "/" + repository
	}
	for _, part := range []struct {
		name, value string
		allowed     *regexp.Regexp
		words       string
	}{
		{"ContainerNamespace", namespace, containerPath, "letters and digits, with . _ - and / between them"},
		{"ContainerRepository", repository, containerPath, "letters and digits, with . _ - and / between them"},
		{"ContainerTag", tag, containerTag, "1 to 128 letters, digits, _ . and -, the first none of the last two"},
	} {
		if part.value != "" && !part.allowed.MatchString(part.value) {
			return "", Errorf(CodeInvalidParameter, "%s: %s is not allowed; it must be %s", part.name, quote(part.value), part.words)
		}
	}
	if len(path) > maxContainerPath {
		return "", Errorf(CodeInvalidParameter, "ContainerRepository: %s has %d characters with its namespace; there may be %d", quote(path), len(path), maxContainerPath)
	}
	return path + ":" + tag, nil
}
