package smc

import (
	"strings"
	"testing"
)

func TestContainerReference(t *testing.T) {
	for _, test := range []struct{ namespace, repository, tag, source, want, refused string }{
		{"", "", "", "web-1", "web-1:latest", ""},
		{"ns", "repo", "v7", "web", "ns/repo:v7", ""},
		{"testNamespace", "testRepository", "CentOS:v1", "web", "testnamespace/testrepository:CentOS-v1", ""}, // the documents' sample
		{"team/prod", "app_1.x", "1.10", "web", "team/prod/app_1.x:1.10", ""},
		{"", "", "", "Web Server: 1", "web-server-1:latest", ""},
		{"", "", "", "数据库", "server:latest", ""},
		{"ns/", "repo", "", "web", "", "ContainerNamespace"},
		{"ns", "re po", "", "web", "", "ContainerRepository"},
		{"ns", "-repo", "", "web", "", "ContainerRepository"},
		{"ns", "repo", ".v", "web", "", "ContainerTag"},
		{"ns", "repo", strings.Repeat("v", 129), "web", "", "ContainerTag"},
		{strings.Repeat("n", 200), strings.Repeat("r", 56), "", "web", "", "ContainerRepository"},
	} {
		r := CreateReplicationJobRequest{ContainerNamespace: &test.namespace, ContainerRepository: &test.repository, ContainerTag: &test.tag}
		got, err := r.ContainerReference(test.source)
		if got != test.want {
			t.Errorf("%+v: %q, %v", test, got, err)
		}
		if test.refused != "" && (CodeOf(err) != CodeInvalidParameter || !strings.Contains(err.Error(), test.refused+": ")) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
